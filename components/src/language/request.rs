//! Requests and replies, decoded: what crosses the edge of the world.

use super::reference::Verb;
use super::state::State;
use crate::value::Value;
use crate::value::error::Result;
use crate::value::name::Path;
use crate::value::transaction_id::TxnId;

/// A decoded request (protocol page 01 §1.1, §1.2).
#[derive(Clone, Debug)]
pub struct Request {
    /// What to do.
    pub verb: Verb,
    /// What to do it to.
    pub path: Path,
    /// The `key` of the query; null if there is none.
    pub key: Value,
    /// The body of a PUT or POST; null for the other verbs.
    pub body: State,
    /// The transaction that the request opens, if the caller named one.
    pub txn_id: Option<TxnId>,
    /// Whether the caller takes nothing but rows as the answer: anything else is refused, and then nothing has happened.
    pub rows_only: bool,
}

/// The answer to a request.
pub type Reply = Result<State>;
