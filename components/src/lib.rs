//! What exists: the values of the language and the plain data of the world. No time, no randomness, no IO.
//!
//! Five rooms, each of which knows only those below it (`tests/house.rs` reads the `use` lines):
//!
//! ```text
//!  transaction   transactions, their ledgers, locks and jobs
//!  hosting       clusters and their configuration, chains and blocks as entities, what storage is asked for
//!  language      states, ops, references; collections and chains as programs see them; what they are written in
//!  rows          sorted rows in columns, in memory, in pages and beyond: values only
//!  value         numbers, names, links, errors, the ids of things, the limits
//! ```

pub mod hosting;
pub mod language;
pub mod rows;
pub mod transaction;
pub mod value;

pub use language::request::{Reply, Request};
pub use language::state::{Map, State, Tuple};
pub use value::Value;
pub use value::error::{Error, ErrorKind, Result};
pub use value::name::{Id, Link, Path};
pub use value::number::{Number, NumberType};
pub use value::transaction_id::TxnId;
