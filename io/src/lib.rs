//! The edges of this machine: HTTP, JSON, storage, configuration, metrics.

pub mod gateway;
pub mod json;
