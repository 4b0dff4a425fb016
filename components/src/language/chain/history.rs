//! The history of a hosted chain as it was at one moment, to be read block by block without the world.
//!
//! Blocks are never changed but for the last one, to which transactions are added: so who knows which blocks there were,
//! and which transaction was the last, can read them out of storage whenever they like.

use std::ops::Range;

use super::{Block, Recorded};
use crate::value::Value;
use crate::value::error::{Error, Result};
use crate::value::ids::ChainId;
use crate::value::transaction_id::TxnId;

/// Which blocks of a history somebody wants to see.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WantedBlocks {
    /// All of them, as a part of the chain.
    All,
    /// One.
    One(u32),
    /// Those from one on, and up to one that is not wanted any more.
    Range(Range<u32>),
}

impl WantedBlocks {
    /// What a key means: none is all, a number is one block, and a pair of bounds a range (page 02 §3).
    ///
    /// # Errors
    /// 400 if it is anything else.
    pub fn of_key(key: &Value) -> Result<Self> {
        let malformed = || {
            Error::bad_request(format_args!(
                "the key of a history is the number of a block, from 0 on, or a range of two such numbers, \
                 of which each may be null, [\"in\", number] or [\"ex\", number], not {key}"
            ))
        };
        let number = |value: &Value| match value {
            Value::Number(number) => number.as_u64().map(|number| u32::try_from(number).unwrap_or(u32::MAX)),
            _ => None,
        };
        if key.is_none() {
            return Ok(Self::All);
        }
        if let Some(one) = number(key) {
            return Ok(Self::One(one));
        }
        let Value::Tuple(sides) = key else { return Err(malformed()) };
        let [start, end] = &**sides else { return Err(malformed()) };
        // By default the start belongs to the range, and the end does not.
        let bound = |side: &Value, is_end: bool| -> Result<Option<u32>> {
            let (tag, value) = match side {
                Value::None => return Ok(None),
                Value::Tuple(pair) => match &**pair {
                    [Value::String(tag), value] => (Some(&**tag), value),
                    [Value::Id(tag), value] => (Some(tag.as_str()), value),
                    _ => return Err(malformed()),
                },
                value => (None, value),
            };
            let is_after = match tag {
                None => false,
                Some("in") => is_end,
                Some("ex") => !is_end,
                Some(_) => return Err(malformed()),
            };
            Ok(Some(number(value).ok_or_else(malformed)?.saturating_add(u32::from(is_after))))
        };
        Ok(Self::Range(bound(start, false)?.unwrap_or(0)..bound(end, true)?.unwrap_or(u32::MAX)))
    }

    /// The numbers of those that are wanted, of so many.
    ///
    /// # Errors
    /// 404 if there is no such block.
    pub fn of(&self, count: u32) -> Result<Range<u32>> {
        match self {
            Self::All => Ok(0..count),
            Self::One(one) if *one < count => Ok(*one..*one + 1),
            Self::One(one) => {
                Err(Error::not_found(format_args!("there is no block {one}: the history has {count}")))
            }
            Self::Range(range) => {
                Ok(range.start.min(count)..range.end.min(count).max(range.start.min(count)))
            }
        }
    }
}

/// What a transaction sees of the history of a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SeenHistory {
    /// How many blocks there are.
    pub blocks: u32,
    /// The last transaction in them; what is newer is not seen.
    pub last: TxnId,
    /// The size of the largest of them, in bytes of TBON.
    pub block_bytes_max: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct HistorySnapshot {
    /// The chain.
    pub chain: ChainId,
    /// Which of its blocks these are.
    pub blocks: Range<u32>,
    /// The last transaction in them.
    pub last: TxnId,
    /// The block that ends with what the reader itself records, that transaction, and what it records.
    pub own: Option<(u32, TxnId, Recorded)>,
    /// The size of the largest of the blocks, in bytes of TBON.
    pub block_bytes_max: u64,
}

/// Blocks of a history.
#[derive(Clone, Debug)]
pub enum Blocks {
    /// They are here.
    Known(Vec<Block>),
    /// They are read while the reply is sent.
    Stored(std::sync::Arc<HistorySnapshot>),
}

/// Blocks that somebody has asked for by their number.
#[derive(Clone, Debug)]
pub struct ChainBlocks {
    /// Whether it is one block, and no list.
    pub is_one: bool,
    /// The blocks.
    pub blocks: Blocks,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::number::Number;

    fn pair(start: Value, end: Value) -> Value {
        Value::Tuple([start, end].into_iter().collect())
    }

    #[test]
    fn a_key_is_a_block_or_a_range_of_them() {
        let number = |number: i64| Value::from(Number::I64(number));
        let tagged = |tag: &str, of: i64| pair(tag.into(), number(of));
        let wanted = |key: &Value| WantedBlocks::of_key(key);
        assert_eq!(wanted(&Value::None).unwrap(), WantedBlocks::All);
        assert_eq!(wanted(&number(3)).unwrap(), WantedBlocks::One(3));
        for (key, range) in [
            (pair(number(2), number(4)), 2..4),
            (pair(tagged("in", 2), tagged("in", 4)), 2..5),
            (pair(tagged("ex", 2), tagged("ex", 4)), 3..4),
            (pair(Value::None, number(4)), 0..4),
            (pair(number(2), Value::None), 2..u32::MAX),
        ] {
            assert_eq!(wanted(&key).unwrap(), WantedBlocks::Range(range), "{key}");
        }
        for key in [
            number(-1),
            "a".into(),
            Number::F64(1.5).into(),
            pair(number(-1), number(2)),
            pair(tagged("up", 1), Value::None),
            Value::Tuple([number(1)].into_iter().collect()),
        ] {
            assert_eq!(wanted(&key).unwrap_err().kind(), crate::ErrorKind::BadRequest, "{key}");
        }
    }

    #[test]
    fn a_range_ends_where_the_history_does() {
        assert_eq!(WantedBlocks::All.of(3).unwrap(), 0..3);
        assert_eq!(WantedBlocks::One(2).of(3).unwrap(), 2..3);
        assert_eq!(WantedBlocks::One(3).of(3).unwrap_err().kind(), crate::ErrorKind::NotFound);
        assert_eq!(WantedBlocks::One(u32::MAX).of(3).unwrap_err().kind(), crate::ErrorKind::NotFound);
        assert_eq!(WantedBlocks::Range(1..9).of(3).unwrap(), 1..3);
        assert!(WantedBlocks::Range(5..9).of(3).unwrap().is_empty());
        assert!(WantedBlocks::Range(std::ops::Range { start: 5, end: 2 }).of(9).unwrap().is_empty());
    }
}
