//! The real server on free ports, through real sockets. One binary: each module is one subject.

mod harness;
mod kill9;
