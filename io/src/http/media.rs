//! The types of what is sent and received (protocol page 01 §1.3).

use hyper::header::HeaderValue;

/// The type of TBON bodies (page 01 §1.3, §1.10).
pub(super) const TBON: &str = "application/tbon";

/// The type of Arrow IPC streams.
pub(super) const ARROW: &str = "application/vnd.apache.arrow.stream";

/// The type of CSV.
pub(super) const CSV: &str = "text/csv";

/// The type of JSON.
pub(super) const JSON_TYPE: HeaderValue = HeaderValue::from_static("application/json");

/// The types that bodies may have, for messages and for `Accept` in a 415.
pub(super) const MEDIA_TYPES: &str =
    "application/json, application/tbon, application/vnd.apache.arrow.stream, text/csv";

/// A form of rows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RowsForm {
    /// An Arrow IPC stream.
    Arrow,
    /// CSV with a header (RFC 4180).
    Csv,
}

impl RowsForm {
    /// Its type.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Arrow => ARROW,
            Self::Csv => CSV,
        }
    }
}
