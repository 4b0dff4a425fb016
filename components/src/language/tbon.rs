//! TBON: the binary, self-delimiting encoding that hosts use among themselves, that blocks are hashed in and
//! that values are stored in (protocol page 01 §1.10). It keeps the width of every number.

use std::fmt;

use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;
use serde::ser::{self, Serialize};

use super::encode;
use super::state::State;
use crate::value::document::Document;
use crate::value::error::{Error, Result};
use crate::value::limits::{DOCUMENT_DEPTH_MAX, DOCUMENT_VALUES_MAX, STORED_DOCUMENT_DEPTH_MAX};
use crate::value::number::Number;

/// Encode anything that serialises to lists, maps, strings, bytes and numbers.
///
/// # Panics
/// If it serialises to anything else: that is a defect of the caller, not of its data.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut encoder = Encoder { out: Vec::new(), bytes_max: usize::MAX };
    value.serialize(&mut encoder).expect("only encodable kinds");
    encoder.out
}

/// As [`fn@encode`], after what is there.
///
/// # Panics
/// As [`fn@encode`].
pub fn append<T: Serialize + ?Sized>(to: &mut Vec<u8>, value: &T) {
    let mut encoder = Encoder { out: std::mem::take(to), bytes_max: usize::MAX };
    value.serialize(&mut encoder).expect("only encodable kinds");
    *to = encoder.out;
}

/// A state in TBON of bounded length, give or take its last item.
///
/// # Errors
/// 413 if it is longer.
pub fn encode_within(state: &State, bytes_max: usize) -> Result<Vec<u8>> {
    let mut encoder = Encoder { out: Vec::new(), bytes_max };
    state.serialize(&mut encoder).map_err(|_| encode::too_large(bytes_max))?;
    Ok(encoder.out)
}

struct Encoder {
    out: Vec<u8>,
    bytes_max: usize,
}

impl Encoder {
    /// Refuse to go on when there is too much already.
    fn check(&self) -> std::result::Result<(), Unencodable> {
        if self.out.len() > self.bytes_max {
            return Err(ser::Error::custom("too long"));
        }
        Ok(())
    }

    fn delimited(&mut self, start: u8, content: &[u8], end: u8) {
        self.out.push(start);
        for byte in content {
            if [start, end, b'\\'].contains(byte) {
                self.out.push(b'\\');
            }
            self.out.push(*byte);
        }
        self.out.push(end);
    }
}

/// A kind of value that TBON has no form for.
#[derive(Debug)]
pub struct Unencodable(String);

impl fmt::Display for Unencodable {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unencodable {}

impl ser::Error for Unencodable {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

macro_rules! numbers {
    ($($method:ident($type:ty) => $tag:literal;)*) => {
        $(fn $method(self, number: $type) -> std::result::Result<(), Unencodable> {
            self.out.push($tag);
            self.out.extend_from_slice(&number.to_be_bytes());
            Ok(())
        })*
    };
}

type Impossible = ser::Impossible<(), Unencodable>;

impl ser::Serializer for &mut Encoder {
    type Ok = ();
    type Error = Unencodable;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Impossible;
    type SerializeTupleVariant = Impossible;
    type SerializeMap = Self;
    type SerializeStruct = Impossible;
    type SerializeStructVariant = Impossible;

    numbers! {
        serialize_f32(f32) => 3;
        serialize_f64(f64) => 4;
        serialize_i8(i8) => 5;
        serialize_i16(i16) => 6;
        serialize_i32(i32) => 7;
        serialize_i64(i64) => 8;
        serialize_u8(u8) => 9;
        serialize_u16(u16) => 10;
        serialize_u32(u32) => 11;
        serialize_u64(u64) => 12;
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> std::result::Result<(), Unencodable> {
        self.out.extend_from_slice(&[2, value.into()]);
        Ok(())
    }

    fn serialize_unit(self) -> std::result::Result<(), Unencodable> {
        self.out.push(1);
        Ok(())
    }

    fn serialize_none(self) -> std::result::Result<(), Unencodable> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> std::result::Result<(), Unencodable> {
        value.serialize(self)
    }

    fn serialize_str(self, text: &str) -> std::result::Result<(), Unencodable> {
        self.delimited(b'"', text.as_bytes(), b'"');
        Ok(())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> std::result::Result<(), Unencodable> {
        self.delimited(b'<', bytes, b'>');
        Ok(())
    }

    fn serialize_seq(self, _len: Option<usize>) -> std::result::Result<Self, Unencodable> {
        self.out.push(b'[');
        Ok(self)
    }

    fn serialize_tuple(self, _len: usize) -> std::result::Result<Self, Unencodable> {
        self.out.push(b'[');
        Ok(self)
    }

    fn serialize_map(self, _len: Option<usize>) -> std::result::Result<Self, Unencodable> {
        self.out.push(b'{');
        Ok(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> std::result::Result<(), Unencodable> {
        value.serialize(self)
    }

    fn serialize_char(self, _: char) -> std::result::Result<(), Unencodable> {
        Err(ser::Error::custom("TBON has no characters"))
    }

    fn serialize_unit_struct(self, _: &'static str) -> std::result::Result<(), Unencodable> {
        Err(ser::Error::custom("TBON has no structs"))
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> std::result::Result<(), Unencodable> {
        Err(ser::Error::custom("TBON has no variants"))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> std::result::Result<(), Unencodable> {
        Err(ser::Error::custom("TBON has no variants"))
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> std::result::Result<Impossible, Unencodable> {
        Err(ser::Error::custom("TBON has no structs"))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> std::result::Result<Impossible, Unencodable> {
        Err(ser::Error::custom("TBON has no variants"))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> std::result::Result<Impossible, Unencodable> {
        Err(ser::Error::custom("TBON has no structs"))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> std::result::Result<Impossible, Unencodable> {
        Err(ser::Error::custom("TBON has no variants"))
    }
}

impl ser::SerializeSeq for &mut Encoder {
    type Ok = ();
    type Error = Unencodable;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, item: &T) -> std::result::Result<(), Unencodable> {
        self.check()?;
        item.serialize(&mut **self)
    }

    fn end(self) -> std::result::Result<(), Unencodable> {
        self.out.push(b']');
        Ok(())
    }
}

impl ser::SerializeTuple for &mut Encoder {
    type Ok = ();
    type Error = Unencodable;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, item: &T) -> std::result::Result<(), Unencodable> {
        self.check()?;
        item.serialize(&mut **self)
    }

    fn end(self) -> std::result::Result<(), Unencodable> {
        ser::SerializeSeq::end(self)
    }
}

impl ser::SerializeMap for &mut Encoder {
    type Ok = ();
    type Error = Unencodable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> std::result::Result<(), Unencodable> {
        self.check()?;
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> std::result::Result<(), Unencodable> {
        value.serialize(&mut **self)
    }

    fn end(self) -> std::result::Result<(), Unencodable> {
        self.out.push(b'}');
        Ok(())
    }
}

/// Parse the TBON document of a request.
///
/// # Errors
/// 400 that says what is wrong and at which byte.
pub fn parse<'a>(bytes: &[u8], arena: &'a Bump) -> Result<Document<'a>> {
    let mut parser = Parser::new(bytes, Bounds::REQUEST, arena);
    let document = parser.document(0)?;
    parser.end()?;
    Ok(document)
}

/// Parse a TBON document that was stored, and so is as large as it is.
///
/// # Errors
/// 400 that says what is wrong and at which byte.
pub fn parse_stored<'a>(bytes: &[u8], arena: &'a Bump) -> Result<Document<'a>> {
    let mut parser = Parser::new(bytes, Bounds::STORED, arena);
    let document = parser.document(0)?;
    parser.end()?;
    Ok(document)
}

/// The items of a list that this host has stored, parsed one by one: the list may hold any number of values.
#[derive(Debug)]
pub struct Items {
    position: usize,
}

impl Items {
    /// The items of the list that these bytes are.
    ///
    /// # Errors
    /// 400 if they are no list.
    pub fn of(bytes: &[u8]) -> Result<Self> {
        match bytes.first() {
            Some(b'[') => Ok(Self { position: 1 }),
            _ => Err(Error::bad_request("invalid TBON at byte 0: a list is expected")),
        }
    }

    /// The next item of the same bytes; none after the last.
    ///
    /// # Errors
    /// 400 that says what is wrong and at which byte.
    pub fn next<'a>(&mut self, bytes: &[u8], arena: &'a Bump) -> Result<Option<Document<'a>>> {
        let mut parser = Parser { position: self.position, ..Parser::new(bytes, Bounds::STORED, arena) };
        if parser.peek()? == b']' {
            if parser.position + 1 < bytes.len() {
                return Err(parser.error("trailing bytes after the list"));
            }
            return Ok(None);
        }
        let item = parser.document(1)?;
        self.position = parser.position;
        Ok(Some(item))
    }
}

/// How much a document may be.
#[derive(Clone, Copy)]
struct Bounds {
    depth_max: usize,
    values_max: usize,
}

impl Bounds {
    const REQUEST: Bounds = Bounds { depth_max: DOCUMENT_DEPTH_MAX, values_max: DOCUMENT_VALUES_MAX };
    const STORED: Bounds = Bounds { depth_max: STORED_DOCUMENT_DEPTH_MAX, values_max: usize::MAX };
}

struct Parser<'b, 'a> {
    bytes: &'b [u8],
    position: usize,
    values: usize,
    bounds: Bounds,
    arena: &'a Bump,
}

impl<'b, 'a> Parser<'b, 'a> {
    fn new(bytes: &'b [u8], bounds: Bounds, arena: &'a Bump) -> Self {
        Self { bytes, position: 0, values: 0, bounds, arena }
    }

    fn end(&self) -> Result<()> {
        match self.position < self.bytes.len() {
            true => Err(self.error("trailing bytes after the document")),
            false => Ok(()),
        }
    }

    fn error(&self, what: &str) -> Error {
        Error::bad_request(format_args!("invalid TBON at byte {}: {what}", self.position))
    }

    fn next(&mut self) -> Result<u8> {
        let byte = *self.bytes.get(self.position).ok_or_else(|| self.error("unexpected end"))?;
        self.position += 1;
        Ok(byte)
    }

    fn peek(&self) -> Result<u8> {
        self.bytes.get(self.position).copied().ok_or_else(|| self.error("unexpected end"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let end = self.position + N;
        let bytes = self.bytes.get(self.position..end).ok_or_else(|| self.error("unexpected end"))?;
        self.position = end;
        Ok(bytes.try_into().expect("N bytes"))
    }

    fn delimited(&mut self, end: u8) -> Result<BumpVec<'a, u8>> {
        // What grows in an arena leaves behind what it was.
        let (mut at, mut len) = (self.position, 0);
        while let Some(byte) = self.bytes.get(at).filter(|byte| **byte != end) {
            at += if *byte == b'\\' { 2 } else { 1 };
            len += 1;
        }
        let mut content = BumpVec::with_capacity_in(len, self.arena);
        loop {
            match self.next()? {
                b'\\' => content.push(self.next()?),
                byte if byte == end => return Ok(content),
                byte => content.push(byte),
            }
        }
    }

    fn string(&mut self) -> Result<&'a str> {
        let start = self.position;
        let bytes = self.delimited(b'"')?.into_bump_slice();
        std::str::from_utf8(bytes)
            .map_err(|_| Error::bad_request(format_args!("invalid UTF-8 in the TBON string at byte {start}")))
    }

    fn count(&mut self) -> Result<()> {
        self.values += 1;
        let Bounds { values_max, .. } = self.bounds;
        if self.values > values_max {
            return Err(Error::too_large(format_args!("a document holds at most {values_max} values")));
        }
        Ok(())
    }

    fn document(&mut self, depth: usize) -> Result<Document<'a>> {
        if depth > self.bounds.depth_max {
            return Err(self.error("nested too deep"));
        }
        self.count()?;
        Ok(match self.next()? {
            1 => Document::Null,
            2 => match self.next()? {
                0 => Document::Number(Number::Bool(false)),
                1 => Document::Number(Number::Bool(true)),
                _ => return Err(self.error("a bool is 0 or 1")),
            },
            b'"' => Document::String(self.string()?),
            b'<' => Document::Bytes(self.delimited(b'>')?.into_bump_slice()),
            b'[' => {
                let mut items = BumpVec::new_in(self.arena);
                while self.peek()? != b']' {
                    items.push(self.document(depth + 1)?);
                }
                self.position += 1;
                Document::List(items.into_bump_slice())
            }
            b'{' => {
                let mut entries = BumpVec::new_in(self.arena);
                while self.peek()? != b'}' {
                    if self.next()? != b'"' {
                        return Err(self.error("the key of a map is a string"));
                    }
                    let key = self.string()?;
                    entries.push((key, self.document(depth + 1)?));
                }
                self.position += 1;
                Document::Map(entries.into_bump_slice())
            }
            b'=' => Document::List(self.typed_array()?),
            tag => Document::Number(self.number(tag)?),
        })
    }

    /// Numbers of one type, without their tags.
    fn typed_array(&mut self) -> Result<&'a [Document<'a>]> {
        let tag = self.next()?;
        let start = self.position;
        let content = self.delimited(b'=')?;
        let mut items = Parser { values: self.values, ..Parser::new(&content, self.bounds, self.arena) };
        let mut numbers = BumpVec::new_in(self.arena);
        while items.position < items.bytes.len() {
            items.count()?;
            let number = match tag {
                2 => Number::Bool(items.next()? != 0),
                _ => items
                    .number(tag)
                    .map_err(|error| error.context(format_args!("in the typed array at byte {start}")))?,
            };
            numbers.push(Document::Number(number));
        }
        self.values = items.values;
        Ok(numbers.into_bump_slice())
    }

    fn number(&mut self, tag: u8) -> Result<Number> {
        Ok(match tag {
            3 => Number::F32(f32::from_be_bytes(self.array()?)),
            4 => Number::F64(f64::from_be_bytes(self.array()?)),
            5 => Number::I16(i8::from_be_bytes(self.array()?).into()),
            6 => Number::I16(i16::from_be_bytes(self.array()?)),
            7 => Number::I32(i32::from_be_bytes(self.array()?)),
            8 => Number::I64(i64::from_be_bytes(self.array()?)),
            9 => Number::U8(u8::from_be_bytes(self.array()?)),
            10 => Number::U16(u16::from_be_bytes(self.array()?)),
            11 => Number::U32(u32::from_be_bytes(self.array()?)),
            12 => Number::U64(u64::from_be_bytes(self.array()?)),
            _ => return Err(self.error("unknown type")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;
    use proptest::prelude::*;

    #[test]
    fn malformed_bytes_say_where() {
        let arena = Bump::new();
        for bad in [
            &b""[..],
            b"[",
            b"\"a",
            b"{\x01\x01}",
            b"\x02\x07",
            b"\x08\x00",
            b"\x01\x01",
            b"\xff",
            b"\"\xff\"",
        ] {
            let error = parse(bad, &arena).unwrap_err();
            assert!(error.message().contains("byte"), "{bad:?}: {error}");
        }
        assert!(parse(&[b'['; 100_000], &arena).is_err());
    }

    #[test]
    fn a_typed_array_is_a_list_of_its_numbers() {
        let arena = Bump::new();
        // 0x3d and 0x5c are the delimiter and its escape: both are escaped inside.
        let document = parse(b"=\x0a\x00\x01\x00\\\x3d\x00\\\x5c=", &arena).unwrap();
        assert_eq!(
            crate::language::encode::to_json(&crate::language::decode::state(document).unwrap()).unwrap(),
            "[1,61,92]"
        );
        for bad in [&b"=\x0a\x00="[..], b"=\x22a=", b"=", b"=\x09\x01"] {
            assert!(parse(bad, &arena).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_items_of_a_list_come_one_by_one() {
        let list = encode(&[State::string("a\"b"), State::NONE, State::tuple(vec![State::NONE]).unwrap()]);
        let arena = Bump::new();
        let mut items = Items::of(&list).unwrap();
        let mut texts = Vec::new();
        while let Some(item) = items.next(&list, &arena).unwrap() {
            texts.push(
                crate::language::encode::to_json(&crate::language::decode::state(item).unwrap()).unwrap(),
            );
        }
        assert_eq!(texts, [r#""a\"b""#, "null", "[null]"]);
        assert!(items.next(&list, &arena).unwrap().is_none());
        assert!(Items::of(b"").is_err() && Items::of(b"\x01").is_err());
        for cut in 1..list.len() {
            let mut items = Items::of(&list[..cut]).unwrap();
            while let Ok(item) = items.next(&list[..cut], &arena) {
                assert!(item.is_some(), "a list that is cut has no end");
            }
        }
        let longer = [&list[..], b"]"].concat();
        let mut items = Items::of(&longer).unwrap();
        assert!((0..4).any(|_| items.next(&longer, &arena).is_err()));
    }

    /// As threads that read what is stored.
    #[expect(clippy::disallowed_types, reason = "only this test needs a stack of a size")]
    fn on_stored_stack(test: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(crate::value::limits::STORED_STACK_BYTES);
            let thread = thread.spawn_scoped(scope, test).unwrap();
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }

    /// The deepest state of a kind: the deepest that there has ever been.
    fn deepest(wrap: impl Fn(State) -> Result<State>) -> State {
        let mut state = crate::Value::Link(crate::Link::parse("/a/b").unwrap()).into();
        while let Ok(deeper) = wrap(State::clone(&state)) {
            state = deeper;
        }
        assert_eq!(state.depth(), crate::value::limits::STATE_DEPTH_MAX);
        state
    }

    #[test]
    fn whatever_is_stored_is_read_back() {
        use crate::language::chain::{Mutation, Recorded};
        use crate::language::encode::Stored;
        on_stored_stack(|| {
            let map = |state| State::map([(crate::Id::literal("a"), state)].into());
            for state in [deepest(|state| State::tuple(vec![state])), deepest(map)] {
                let bytes = encode(&("/app/x", 1_u32, "/state/chain/sync", Stored(&state)));
                let arena = Bump::new();
                let Document::List([.., stored]) = parse_stored(&bytes, &arena).unwrap() else {
                    panic!("not a list");
                };
                let read = crate::language::decode::stored(*stored).unwrap();
                assert_eq!(format!("{read:?}"), format!("{state:?}"));
                let key = crate::Value::None;
                let path = crate::Path::root();
                let mutations = [Mutation::Put { path, key, value: state }];
                let bytes = Recorded::of(&mutations).stored();
                let read = crate::language::decode::stored_mutations(&bytes).unwrap();
                assert_eq!(format!("{read:?}"), format!("{mutations:?}"));
                assert!(read[0].repeat(&State::NONE).is_ok());
                assert!(read[0].apply(&State::NONE).is_err(), "it is not written any more");
            }
        });
    }

    #[test]
    fn a_record_of_any_number_of_values_is_read_back() {
        let key = crate::Value::None;
        let path = crate::Path::root();
        let value = State::tuple(vec![State::NONE; 1_000]).unwrap();
        let mutations = vec![crate::language::chain::Mutation::Put { path, key, value }; 4_100];
        let bytes = crate::language::chain::Recorded::of(&mutations).stored();
        let mut count = 0;
        let read = crate::language::decode::each_stored_mutation(&bytes, |_| {
            count += 1;
            Ok(())
        });
        assert_eq!((read.is_ok(), count), (true, 4_100), "more than a request may hold");
        let bytes = crate::language::chain::Recorded::of(&mutations[..2]).stored();
        assert_eq!(crate::language::decode::stored_mutations(&bytes).unwrap().len(), 2);
        assert!(crate::language::decode::stored_mutations(&bytes[..bytes.len() - 1]).is_err());
        assert!(crate::language::decode::stored_mutations(&[&bytes[..], &[1]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, &Bump::new());
            let _ = crate::language::decode::stored_mutations(&bytes);
        }

        #[test]
        fn stored_states_are_read_back_as_they_were(state in crate::language::encode::tests::any_stored_state()) {
            let bytes = encode(&crate::language::encode::Stored(&state));
            let arena = Bump::new();
            let decoded: State = crate::language::decode::stored(parse_stored(&bytes, &arena).unwrap()).unwrap();
            prop_assert_eq!(format!("{state:?}"), format!("{decoded:?}"));
        }
    }
}
