//! What happens: one file per stage of the tick, and the interpreters they call.
//!
//! The stages of a tick: [`intake`]; then [`arbitrate`], [`execute`], [`commit`] and [`apply`], again and again until
//! nothing moves; then [`checkpoint`], [`respond`], [`evict`] and [`persist`].

pub mod apply;
pub mod arbitrate;
mod chain;
pub mod checkpoint;
mod cluster;
mod collection;
pub mod commit;
pub mod dispatch;
pub mod evict;
pub mod execute;
pub mod fold;
pub mod futures;
pub mod ids;
pub mod intake;
pub mod limits;
pub mod pages;
pub mod persist;
mod progress;
pub mod respond;
pub mod retired;
pub mod room;
pub mod scalar;
pub mod tick;
