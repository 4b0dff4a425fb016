//! What the host keeps, as entities and records of the world: clusters and their configuration, chains with their
//! blocks, versions and pages, and what storage is asked to write.
//!
//! It knows the language, in which clusters are written, and nothing of transactions, which change it.

pub mod cluster;
pub mod storage;
pub mod versions;
