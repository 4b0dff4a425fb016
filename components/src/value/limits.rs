//! How deep, how long and how many: what is written is checked against these, and what was written is read back whatever
//! it is, so nothing that was accepted can be unreadable.
//!
//! ```text
//!  a request   DOCUMENT_*, KEY_*      while it is parsed; two bytes of text can become a hundred of memory
//!  a state     STATE_*                whenever a container is made: dropping, printing and resolving recurse
//!  a chain     STORED_*, PATH_*       when a value gets its stored form, and when a subject has changed
//!  a reader    STORED_DOCUMENT_*      what is damaged must not exhaust the stack; nothing that was written is so deep
//! ```

use super::error::{Error, Result};

/// How deep the document of a request may nest, whatever it is written in: parsing, decoding and printing recurse.
pub const DOCUMENT_DEPTH_MAX: usize = 500;

/// How many values the document of a request may hold: a few bytes of text become about a hundred bytes of memory.
pub const DOCUMENT_VALUES_MAX: usize = 4_000_000;

/// The deepest nesting of the key of a request (protocol page 01 §8).
pub const KEY_DEPTH_MAX: usize = 127;

/// How deep containers may nest while a program runs.
pub const STATE_DEPTH_MAX: u32 = 1_000;

/// How large one state may be, counted as if nothing in it were shared, in bytes.
pub const STATE_BYTES_MAX: u64 = 64 << 20;

/// How many levels a reply or a request has around what a chain stores, at most: a `/chain` within a context has nine,
/// and a leaf that is written as an object with a list has two.
const STORED_WRAPPER_LEVELS: usize = 20;

/// How deep what a chain or a collection stores may nest: what it shows can be sent back as a request.
pub const STORED_DEPTH_MAX: u32 = (DOCUMENT_DEPTH_MAX - STORED_WRAPPER_LEVELS) as u32;

/// How many levels an id counts as: JSON shows it as an object with an empty list, and that is what it may come back as.
pub const ID_LEVELS: u32 = 2;

/// How deep a stored document is read. No state is half as deep, also not those that were stored when
/// [`STATE_DEPTH_MAX`] was the only limit.
pub const STORED_DOCUMENT_DEPTH_MAX: usize = 2 * STATE_DEPTH_MAX as usize;

/// What a thread that reads what is stored needs as its stack, in bytes; it is address space.
pub const STORED_STACK_BYTES: usize = 64 << 20;

/// What a value or state takes in memory beside its content, in bytes.
pub const VALUE_BYTES: u64 = 40;

/// The longest id, in bytes.
pub const ID_BYTES_MAX: usize = 255;

/// The most segments of a path.
pub const PATH_SEGMENTS_MAX: usize = 64;

/// How much one transaction may hold in its contexts, and write into chains around values, in bytes.
pub const TRANSACTION_BYTES_MAX: u64 = 128 << 20;

/// Check how deep what a chain holds nests.
///
/// # Errors
/// 400 if that is too deep.
pub fn check_stored_depth(depth: u32) -> Result<()> {
    if depth > STORED_DEPTH_MAX {
        return Err(Error::bad_request(format_args!(
            "what is stored nests at most {STORED_DEPTH_MAX} levels"
        )));
    }
    Ok(())
}
