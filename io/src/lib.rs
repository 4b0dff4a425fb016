//! The edges of this machine: HTTP, JSON, storage, configuration, metrics.

pub mod config;
pub mod gateway;
pub mod http;
pub mod json;
pub mod metrics;
