//! The edges of this machine: HTTP, JSON, storage, configuration, metrics, and the threads that drive the world.

pub mod allocator;
pub mod config;
pub mod descriptors;
pub mod driver;
pub mod gateway;
pub mod http;
pub mod jobs;
pub mod json;
pub mod keys;
pub mod log;
pub mod metrics;
pub mod pages;
pub mod persistence;
pub mod restore;
pub mod server;
pub mod signals;
pub mod storage;
pub mod verify;
pub mod workspace;
