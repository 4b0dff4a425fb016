//! The language: what a program is made of and what it sees (protocol pages 01 to 05).
//!
//! [`state`] has all that a program can hold; [`decode`], [`encode`] and [`tbon`] say how it is written. It relies on
//! values and rows, and knows neither who keeps a chain nor who runs a program: what a program takes of memory is on an
//! [account](memory::Account) that somebody above keeps.

pub mod cast;
pub mod chain;
pub mod class;
pub mod collection;
pub mod decode;
pub mod encode;
pub mod memory;
pub mod op;
pub mod reference;
pub mod request;
pub mod state;
pub mod tbon;
