//! What exists: the values of the language and the plain data of the world. No time, no randomness, no IO.

pub mod error;
pub mod number;

pub use error::{Error, ErrorKind, Result};
pub use number::{Number, NumberType};
