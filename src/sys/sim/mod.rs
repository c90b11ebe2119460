//! The twins that the simulation puts in place of the machine: a disk that loses what was not synced, threads that step in an order the seed picks, a clock that is tokio's.
