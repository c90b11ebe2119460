//! The server under simulation: power cuts, failed syncs and full disks where a seed puts them, and a checker of what
//! came of it.
//!
//! One seed is one run. A failure prints its seed; `SLUICE_SIM_SEED=n cargo test --test sim` runs that one alone, and
//! `SLUICE_SIM_SEEDS=1000` runs more than the default.

mod broker_level;
mod checker;
mod log_level;
mod metadata_level;
mod queue_faults;
mod queue_level;
mod queue_workload;
mod workload;
mod world;
