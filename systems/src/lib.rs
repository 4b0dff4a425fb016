//! What happens: one file per stage of the tick, and the interpreters they call.

mod chain;
mod cluster;
pub mod dispatch;
pub mod futures;
pub mod scalar;
