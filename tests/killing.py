"""Kill a host while clients load it, for the tests of crashes."""

import concurrent.futures
import os
import time

import support

ROUNDS = int(os.environ.get("TINYCHAIN_KILL_ROUNDS", "5"))


def kill_under_load(host, loads, after_s):
    """Call each of `loads` on a thread of its own, kill the host meanwhile, and wait: they return when it is gone."""

    with concurrent.futures.ThreadPoolExecutor(len(loads)) as pool:
        running = [pool.submit(load, host) for load in loads]
        time.sleep(after_s)
        support.kill(host)
        for load in running:
            load.result()


def kill_while_starting(host, after_s):
    """Kill a host that may still be recovering."""

    host.start(wait_time=0)
    time.sleep(after_s)
    support.kill(host)
