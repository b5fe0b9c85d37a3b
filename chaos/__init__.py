"""The chaos suite: real processes, disks and sockets; faults aimed at roles; judged by the simulator's checker."""
