//! Deterministic simulations of a host with its storage: a virtual clock, a virtual disk, one seed.
//!
//! The checkers know only what goes into a host and what comes out of it: requests, replies and stored bytes.

mod blocks;
mod checker;
mod crash;
mod damage;
mod determinism;
mod ids;
mod inspection;
mod limits;
mod machine;
mod poison;
mod programs;
mod random;
mod readable;
mod rows;
mod rows_crash;
mod rows_determinism;
mod rows_history;
mod rows_scenarios;
mod rows_serializability;
mod scenarios;
mod serializability;
mod services;
mod streams;
mod unreadable;
mod waiters;
