//! The real server on free ports, through real sockets. One binary: each module is one subject.

mod bench;
mod cli;
mod engine_conformance;
mod groups;
mod harness;
mod idle_readers;
mod kafka;
mod kafka_client;
mod kill9;
mod memory;
mod producing;
mod queue_faults;
mod queue_kill;
mod queue_socket;
mod queues;
mod reading;
mod refusals;
mod slow_readers;
