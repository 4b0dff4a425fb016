//! What exists: the values of the language and the plain data of the world. No time, no randomness, no IO.

pub mod cast;
pub mod chain;
pub mod class;
pub mod cluster;
pub mod collection;
pub mod decode;
pub mod document;
pub mod encode;
pub mod error;
pub mod job;
pub mod ledger;
pub mod limits;
pub mod lock;
pub mod name;
pub mod native;
pub mod number;
pub mod op;
pub mod reference;
pub mod request;
pub mod state;
pub mod storage;
pub mod tbon;
pub mod transaction;
pub mod transaction_id;
pub mod value;
pub mod versions;

pub use error::{Error, ErrorKind, Result};
pub use name::{Id, Link, Path};
pub use number::{Number, NumberType};
pub use request::{Reply, Request};
pub use state::{Map, State, Tuple};
pub use transaction_id::TxnId;
pub use value::Value;
