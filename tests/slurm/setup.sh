#!/bin/sh
# Slurm on one machine, for tests/test_slurm.py: one node that takes two tasks, without cgroups or accounting.
# As root on Debian or Ubuntu: sh tests/slurm/setup.sh; then srun -n 2 hostname. Give "stop" to end its daemons.
set -e
state=/var/lib/jaxgen-slurm

if [ "$1" = stop ]; then
    for daemon in slurmd slurmctld munged; do
        [ ! -f "$state/$daemon.pid" ] || kill "$(cat "$state/$daemon.pid")" 2>/dev/null || true
    done
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
command -v slurmctld >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends slurmctld slurmd slurm-client munge; }

node=$(hostname -s)
mkdir -p "$state/controller" "$state/node" /etc/slurm /run/munge
[ -s /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none
chown -R munge: /etc/munge /run/munge /var/lib/munge /var/log/munge
chmod 400 /etc/munge/munge.key
chmod 755 /run/munge

cat > /etc/slurm/slurm.conf <<CONF
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$state/controller
SlurmdSpoolDir=$state/node
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SlurmdTimeout=60
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
plugin=disabled
case "$(slurmd -V)" in  # which older versions do not know
    *" 2"[0-2].*) plugin=cgroup/v1; [ ! -e /sys/fs/cgroup/cgroup.controllers ] || plugin=cgroup/v2 ;;
esac
echo "CgroupPlugin=$plugin" > /etc/slurm/cgroup.conf

setsid su -s /bin/sh munge -c "/usr/sbin/munged --force --pid-file=/run/munge/munged.pid" || true
cp /run/munge/munged.pid "$state/munged.pid" 2>/dev/null || true
slurmctld || true
slurmd || true
for _ in 1 2 3 4 5 6 7 8 9 10; do
    srun -n 2 --immediate=5 true 2>/dev/null && { echo "srun works on $node"; exit 0; }
    sleep 1
done
sinfo || true
for log in slurmctld slurmd; do tail -n 5 "$state/$log.log"; done
exit 1
