"""A process that JAX aborts because another host is lost says a sentence first, once."""

import os
import signal
import subprocess
import sys

import jax
import pytest

from jaxgen import hosts

START = (
    "import ctypes, os, sys, time; from jaxgen import last_words; last_words.prepare('error: another host has died'); "
)


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", START + code], capture_output=True, text=True, timeout=120, env=os.environ
    )
    return done.returncode, done.stderr, done.stdout


def test_before_an_abort_a_sentence_is_said_and_the_exit_code_is_that_of_an_error():
    code, said, printed = run("print('last line'); ctypes.CDLL(None).abort()")
    assert (code, said, printed) == (2, "error: another host has died\n", "last line\n")


def test_a_thread_that_aborts_while_the_main_one_waits_is_heard_too():
    code = "import threading; threading.Thread(target=ctypes.CDLL(None).abort).start(); time.sleep(100)"
    assert run(code)[:2] == (2, "error: another host has died\n")


def test_an_abort_that_holds_the_lock_of_python_is_what_it_always_was_some_seconds_later():
    assert run("os.abort()")[:2] == (-signal.SIGABRT, "")


def test_what_has_been_said_is_not_said_again():
    code, said, _ = run("last_words.said(); sys.stderr.write('error: in better words\\n'); ctypes.CDLL(None).abort()")
    assert (code, said) == (2, "error: in better words\n")


def test_a_child_that_aborts_does_not_end_its_parent():
    code = (
        "child = os.fork()\nif not child: ctypes.CDLL(None).abort()\nos.waitpid(child, 0); time.sleep(3); print('on')"
    )
    assert run(f"\n{code}") == (0, "", "on\n")


def test_who_uses_faulthandler_keeps_it():
    code = "import faulthandler, os; faulthandler.enable(); " + START + "os.abort()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGABRT and "Fatal Python error: Aborted" in done.stderr


@pytest.mark.parametrize(
    ("message", "is_lost"),
    [
        ("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:41674\nmore", True),
        ("UNAVAILABLE: Socket closed", True),
        ("DEADLINE_EXCEEDED: Barrier timed out", True),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes", False),
        ("INVALID_ARGUMENT: shapes differ", False),
    ],
)
def test_errors_that_come_of_a_lost_host_are_one_sentence_whatever_gave_up_because_of_them(message, is_lost):
    outer = ValueError("the checkpoint could not be saved")
    outer.__cause__ = error = jax.errors.JaxRuntimeError(message)
    for one in (error, outer, ValueError(message)):  # as JAX raises some of XLA's
        sentence = hosts.sentence_of_lost_host(one)
        assert (sentence is not None) == is_lost
        if sentence:
            assert sentence.startswith("another host has died") and sentence.endswith(f"({message.splitlines()[0]})")
    assert hosts.sentence_of_lost_host(ValueError(f"--data.path: {message}")) is None  # of somebody else
