//! The edges of this machine: HTTP, JSON, storage, configuration, metrics.

pub mod storage;
