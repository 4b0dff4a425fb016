//! A parsed request body or key, before it is known what it means.

use super::number::Number;

/// A parsed document that borrows from its text and from the arena of its parser.
///
/// JSON and TBON both parse into this; the decoders of the language read it.
#[derive(Clone, Copy, Debug)]
pub enum Document<'a> {
    /// `null`
    Null,
    /// A number or bool. JSON integers are i64 if they fit, else u64; other JSON numbers are f64.
    Number(Number),
    /// Text.
    String(&'a str),
    /// Raw bytes; JSON has none.
    Bytes(&'a [u8]),
    /// A list.
    List(&'a [Document<'a>]),
    /// Entries in the order of the text, duplicates included.
    Map(&'a [(&'a str, Document<'a>)]),
}

impl Document<'_> {
    /// How many values there are in this, itself included.
    pub fn values(&self) -> usize {
        match self {
            Self::List(items) => 1 + items.iter().map(Self::values).sum::<usize>(),
            Self::Map(entries) => 1 + entries.iter().map(|(_, item)| item.values()).sum::<usize>(),
            _ => 1,
        }
    }

    /// What kind of thing this is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Number(Number::Bool(_)) => "a bool",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "a list",
            Self::Map(_) => "an object",
        }
    }
}
