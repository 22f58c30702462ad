"""Texts whose reading goes wrong, to be handed to workers; imports nothing that takes time."""

import os
import signal
import time


class Deadly(str):
    """A text whose reading ends the process that reads it, as a bug in C++ would."""

    __slots__ = ()

    def strip(self, *args):
        os.kill(
            os.getpid(), {"C": signal.SIGSEGV, "N": signal.SIGABRT}.get(self[0], signal.SIGKILL)
        )


class Leaving(str):
    """A text whose reading leaves the process without a word."""

    __slots__ = ()

    def strip(self, *args):
        os._exit(3)


class Endless(str):
    """A text whose reading takes for ever."""

    __slots__ = ()

    def strip(self, *args):
        while True:
            pass


class Faulty(str):
    """A text whose reading meets a fault of the program."""

    __slots__ = ()

    def strip(self, *args):
        raise ZeroDivisionError("a fault of the program")


def process_id(delay):
    time.sleep(delay)
    return os.getpid()
