//! Values in the data model of JSON and TBON (protocol page 01 §2.4).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::Value;
use super::error::{Error, Result};

const EMPTY: [Value; 0] = [];

/// A value as JSON text.
///
/// # Errors
/// 400 if it holds a number that JSON has no form for: NaN or infinity.
pub fn to_json(value: &Value) -> Result<String> {
    serde_json::to_string(value).map_err(Error::bad_request)
}

/// One entry, from the text of a path or subject.
pub(crate) fn entry<S: Serializer, V: Serialize + ?Sized>(
    serializer: S,
    key: &str,
    value: &V,
) -> std::result::Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(key, value)?;
    map.end()
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_unit(),
            Self::Number(number) => number.serialize(serializer),
            Self::Bytes(bytes) if serializer.is_human_readable() => {
                serializer.serialize_str(&BASE64.encode(bytes))
            }
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Self::Id(id) => entry(serializer, id.as_str(), &EMPTY),
            Self::String(text) => serializer.serialize_str(text),
            Self::Link(link) => entry(serializer, &link.to_string(), &EMPTY),
            Self::Tuple(items) => serializer.collect_seq(items.iter()),
        }
    }
}
