//! Values as a client writes and reads them, the classes of columns, and which values each class can hold: written from
//! protocol pages 00 and 02, not from the host.

use std::cmp::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::random::Random;
use crate::tbon;

/// A value.
#[derive(Clone, Debug)]
pub enum Datum {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Complex(f64, f64),
    Id(String),
    Text(String),
    /// A path.
    Link(String),
    /// Written and shown as base64.
    Bytes(Vec<u8>),
    Tuple(Vec<Datum>),
}

use Datum::{Bool, Bytes, Complex, Float, Id, Int, Link, Null, Text, Tuple};

/// The class of complex numbers, by which they are written and shown.
const COMPLEX: &str = "/state/scalar/value/number/complex/64";

impl Datum {
    pub fn text(text: &str) -> Self {
        Text(text.to_string())
    }

    /// Whether its integers are within i64 or u64, as those of every document.
    pub fn is_document(&self) -> bool {
        match self {
            Int(value) => (i64::MIN.into()..=u64::MAX.into()).contains(value),
            Tuple(items) => items.iter().all(Self::is_document),
            _ => true,
        }
    }

    /// As a client writes it.
    pub fn json(&self) -> String {
        match self {
            Null => "null".into(),
            Bool(value) => value.to_string(),
            Int(value) => value.to_string(),
            Float(value) => format!("{value:?}"),
            Complex(re, im) => format!("{{\"{COMPLEX}\":[{re:?},{im:?}]}}"),
            Id(name) | Link(name) => format!("{{{}:[]}}", json!(name)),
            Text(text) => json!(text).to_string(),
            Bytes(bytes) => json!(STANDARD.encode(bytes)).to_string(),
            Tuple(items) => {
                let items: Vec<String> = items.iter().map(Self::json).collect();
                format!("[{}]", items.join(","))
            }
        }
    }

    /// As a client writes it in TBON (protocol page 04 §4.3).
    pub fn tbon(&self, out: &mut Vec<u8>) {
        let map = |out: &mut Vec<u8>, name: &str, items: &[Datum]| {
            out.push(b'{');
            Text(name.into()).tbon(out);
            Tuple(items.to_vec()).tbon(out);
            out.push(b'}');
        };
        match self {
            Null => out.push(1),
            Bool(value) => out.extend([2, u8::from(*value)]),
            Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(value), _) => tbon::number(8, &value.to_be_bytes(), out),
                (_, Ok(value)) => tbon::number(12, &value.to_be_bytes(), out),
                _ => panic!("no document holds {value}"),
            },
            Float(value) => tbon::number(4, &value.to_be_bytes(), out),
            Complex(re, im) => map(out, COMPLEX, &[Float(*re), Float(*im)]),
            Id(name) | Link(name) => map(out, name, &[]),
            Text(text) => tbon::delimited(b'"', text.as_bytes(), b'"', out),
            Bytes(bytes) => tbon::delimited(b'<', bytes, b'>', out),
            Tuple(items) => {
                out.push(b'[');
                items.iter().for_each(|item| item.tbon(out));
                out.push(b']');
            }
        }
    }

    /// As the host shows it.
    pub fn of(json: &Value) -> Self {
        match json {
            Value::Null => Null,
            Value::Bool(value) => Bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Int(value.into()),
                (_, Some(value)) => Int(value.into()),
                _ => Float(number.as_f64().expect("a number")),
            },
            Value::String(text) => Self::text(text),
            Value::Array(items) => Tuple(items.iter().map(Self::of).collect()),
            Value::Object(map) => match map.iter().next() {
                Some((name, Value::Array(items))) if map.len() == 1 && items.is_empty() => {
                    if name.starts_with('/') { Link(name.clone()) } else { Id(name.clone()) }
                }
                Some((name, Value::Array(items))) if name == COMPLEX && items.len() == 2 => {
                    let part = |at: usize| items[at].as_f64().expect("a number");
                    Complex(part(0), part(1))
                }
                _ => Text(json.to_string()),
            },
        }
    }

    /// Which number it is, as an integer and a fraction; exact, also where floats are not.
    fn number(&self) -> Option<(i128, f64)> {
        match self {
            Int(value) => Some((*value, 0.0)),
            // Floats beyond have no fraction, and more than 128 bits: they keep their order.
            Float(value) if value.abs() >= 1e36 => Some((i128::MAX * (value.signum() as i128), *value)),
            Float(value) => Some((value.floor() as i128, value - value.floor())),
            _ => None,
        }
    }

    /// The order of protocol page 02 §2.2: null, numbers by value, texts by their bytes, tuples element by element.
    pub fn compare(&self, other: &Self) -> Ordering {
        let rank = |datum: &Self| match datum {
            Null => 0,
            Bool(_) | Int(_) | Float(_) | Complex(..) => 1,
            Bytes(_) => 2,
            Id(_) => 3,
            Text(_) => 4,
            Link(_) => 5,
            Tuple(_) => 6,
        };
        match (self, other) {
            (Text(this), Text(that)) | (Id(this), Id(that)) | (Link(this), Link(that)) => {
                this.as_bytes().cmp(that.as_bytes())
            }
            (Bytes(this), Bytes(that)) => this.cmp(that),
            (Tuple(this), Tuple(that)) => {
                let pairs = this.iter().zip(that).map(|(this, that)| this.compare(that));
                pairs.fold(Ordering::Equal, Ordering::then).then(this.len().cmp(&that.len()))
            }
            (Bool(this), _) => Int((*this).into()).compare_number(other).unwrap_or(1.cmp(&rank(other))),
            (_, Bool(that)) => self.compare_number(&Int((*that).into())).unwrap_or(rank(self).cmp(&1)),
            _ => self.compare_number(other).unwrap_or(rank(self).cmp(&rank(other))),
        }
    }

    fn compare_number(&self, other: &Self) -> Option<Ordering> {
        let other = match other {
            Bool(value) => &Int((*value).into()),
            other => other,
        };
        // By magnitude (page 02 §2.2), in a total order that is free (page 01 §7.4): behind those of one part.
        match (self, other) {
            (Complex(re, im), Complex(other_re, other_im)) => {
                return re.hypot(*im).partial_cmp(&other_re.hypot(*other_im));
            }
            (Complex(..), other) => return other.number().map(|_| Ordering::Greater),
            (this, Complex(..)) => return this.number().map(|_| Ordering::Less),
            _ => {}
        }
        let (this, that) = (self.number()?, other.number()?);
        Some(this.0.cmp(&that.0).then(this.1.partial_cmp(&that.1).expect("no NaN")))
    }

    /// Whether both are the same value of the same kind; a whole float and an integer are.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Null, Null) => true,
            (Bool(this), Bool(that)) => this == that,
            (Int(_) | Float(_), Int(_) | Float(_)) => self.compare(other) == Ordering::Equal,
            (Text(this), Text(that)) | (Id(this), Id(that)) | (Link(this), Link(that)) => this == that,
            (Complex(re, im), Complex(other_re, other_im)) => (re, im) == (other_re, other_im),
            (Bytes(this), Bytes(that)) => this == that,
            (Tuple(this), Tuple(that)) => {
                this.len() == that.len() && this.iter().zip(that).all(|(this, that)| this.is_same(that))
            }
            _ => false,
        }
    }
}

/// The class of a column.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    Integer { path: &'static str, min: i128, max: i128 },
    F64,
    F32,
    C64,
    Bool,
    String,
    Bytes,
    Tuple,
    Any,
}

const fn integer(path: &'static str, min: i128, max: i128) -> Class {
    Class::Integer { path, min, max }
}

pub const I16: Class = integer("number/int/16", i16::MIN as i128, i16::MAX as i128);
pub const I32: Class = integer("number/int/32", i32::MIN as i128, i32::MAX as i128);
pub const I64: Class = integer("number/int/64", i64::MIN as i128, i64::MAX as i128);
pub const U8: Class = integer("number/uint/8", 0, u8::MAX as i128);
pub const U16: Class = integer("number/uint/16", 0, u16::MAX as i128);
pub const U32: Class = integer("number/uint/32", 0, u32::MAX as i128);
pub const U64: Class = integer("number/uint/64", 0, u64::MAX as i128);

/// Whether a value may be written to a column.
#[derive(Clone, Debug)]
pub enum Fit {
    /// It is stored as this.
    Stored(Datum),
    /// 400.
    Refused,
    /// The pages do not say: whatever the host does, it must go on with that.
    Open,
}

/// The longest text of a column, in characters.
pub const TEXT_LEN_MAX: usize = 12;

impl Class {
    /// The path of the class.
    pub fn path(self) -> String {
        let name = match self {
            Class::Integer { path, .. } => path,
            Class::F64 => "number/float/64",
            Class::F32 => "number/float/32",
            Class::C64 => "number/complex/64",
            Class::Bool => "number/bool",
            Class::String => "string",
            Class::Bytes => "bytes",
            Class::Tuple => "tuple",
            Class::Any => return "/state/scalar/value".into(),
        };
        format!("/state/scalar/value/{name}")
    }

    /// What a column shows; of a narrow float, the shortest digits that mean it.
    pub fn shown(self, datum: Datum) -> Datum {
        match (self, datum) {
            (Class::F32, Float(value)) => Float(value as f32 as f64),
            (Class::F32, Int(value)) => Float(value as f32 as f64),
            (_, datum) => self.meant(datum),
        }
    }

    /// What a value means in such a column: base64 is bytes, whatever else it may look like, and a float that goes into
    /// a narrower one rounds, also to be looked for.
    pub fn meant(self, datum: Datum) -> Datum {
        match (self, datum) {
            (Class::F32, Float(value)) if (value as f32).is_finite() => Float(value as f32 as f64),
            (Class::Bytes, Text(text)) => STANDARD.decode(&text).map_or(Text(text), Bytes),
            (_, datum) => datum,
        }
    }

    /// Whether its columns have a longest length.
    pub fn has_max_len(self) -> bool {
        matches!(self, Class::String | Class::Bytes | Class::Tuple | Class::Any)
    }

    /// "Stored only if the column can hold exactly that value; float to narrower float rounds" (page 00).
    pub fn fit(self, datum: &Datum) -> Fit {
        match (self, datum) {
            (Class::Any, Text(text)) if text.chars().count() > TEXT_LEN_MAX => Fit::Refused,
            (Class::Any, Tuple(items)) if items.len() > TEXT_LEN_MAX => Fit::Refused,
            // No document holds it.
            (_, datum) if !datum.is_document() => Fit::Refused,
            (Class::Any, datum) => Fit::Stored(datum.clone()),
            (_, Null) => Fit::Refused,
            (Class::Bool, Bool(_)) => Fit::Stored(datum.clone()),
            (Class::Bool, _) => Fit::Open,
            (Class::Integer { min, max, .. }, Int(value)) if (min..=max).contains(value) => {
                Fit::Stored(datum.clone())
            }
            (Class::Integer { min, max, .. }, Float(value)) if value.fract() == 0.0 && value.abs() < 1e30 => {
                let whole = *value as i128;
                if (min..=max).contains(&whole) { Fit::Stored(Int(whole)) } else { Fit::Refused }
            }
            (Class::Integer { .. }, Int(_) | Float(_) | Bool(_)) => Fit::Refused,
            (Class::F64, Int(value)) if (*value as f64) as i128 == *value => {
                Fit::Stored(Float(*value as f64))
            }
            (Class::F32, Int(value)) if (*value as f32) as i128 == *value => {
                Fit::Stored(Float(*value as f32 as f64))
            }
            (Class::F64 | Class::F32, Int(_) | Bool(_)) => Fit::Refused,
            (Class::F64, Float(_)) => Fit::Stored(datum.clone()),
            (Class::F32, Float(value)) if (*value as f32).is_finite() => {
                Fit::Stored(Float(*value as f32 as f64))
            }
            (Class::F32, Float(_)) => Fit::Open,
            // Numeric text is parsed: page 02 has how.
            (Class::Integer { .. } | Class::F64 | Class::F32, Text(_)) => Fit::Open,
            (
                Class::Integer { .. } | Class::F64 | Class::F32,
                Tuple(_) | Bytes(_) | Id(_) | Link(_) | Complex(..),
            ) => Fit::Open,
            (Class::C64, Complex(..)) => Fit::Stored(datum.clone()),
            (Class::C64, _) => Fit::Open,
            (Class::String, Text(text)) if text.chars().count() > TEXT_LEN_MAX => Fit::Refused,
            (Class::String, Text(_)) => Fit::Stored(datum.clone()),
            (Class::String, _) => Fit::Open,
            (Class::Bytes, datum) => match self.meant(datum.clone()) {
                bytes @ Bytes(_) => Fit::Stored(bytes),
                _ => Fit::Open,
            },
            (Class::Tuple, Tuple(items)) if items.len() > TEXT_LEN_MAX => Fit::Refused,
            (Class::Tuple, Tuple(_)) => Fit::Stored(datum.clone()),
            (Class::Tuple, Id(_) | Link(_) | Complex(..)) => Fit::Open,
            (Class::Tuple, _) => Fit::Refused,
        }
    }

    /// A value that such a column holds, often at its boundary.
    pub fn pick(self, random: &mut Random) -> Datum {
        loop {
            let datum = match self {
                Class::Integer { min, max, .. } if random.one_in(2) => {
                    Int(*random.choose(&[min, min + 1, 0, 1, 2, 3, max / 2, max - 1, max]))
                }
                Class::Integer { .. } => Int(random.below(20) as i128),
                Class::F64 | Class::F32 => Float(*random.choose(&FLOATS)),
                Class::C64 => complex(random),
                Class::Bool => Bool(random.one_in(2)),
                Class::String => Datum::text(random.choose::<&str>(&TEXTS)),
                Class::Bytes => Datum::text(random.choose::<&str>(&BYTES)),
                Class::Tuple => Tuple((0..random.below(3)).map(|_| any(random)).collect()),
                Class::Any => any(random),
            };
            if let Fit::Stored(_) = self.fit(&datum) {
                return datum;
            }
        }
    }
}

const FLOATS: [f64; 15] = [
    0.0,
    -0.0,
    0.1,
    0.5,
    1.0,
    -1.5,
    2.5,
    16_777_217.0,
    9_007_199_254_740_992.0,
    1e20,
    -1e20,
    1.7976931348623157e308,
    5e-324,
    f32::MAX as f64,
    1e-7,
];

/// Texts that other formats take for something else.
const TEXTS: [&str; 20] = [
    "",
    " ",
    "a",
    "1",
    "1.0",
    "-0",
    "true",
    "True",
    "null",
    "None",
    "NULL",
    "nan",
    "inf",
    "é\u{1F600}",
    "\"q\",;'",
    "a\nb",
    "a\r\n",
    "\u{0}",
    "abcdefghijkl",
    "abcdefghijklm",
];

/// Numbers of two parts, each of a magnitude that no other number here has.
fn complex(random: &mut Random) -> Datum {
    let (re, im) = *random.choose(&[(0.75, 1.0), (-6.0, 8.0), (1e200, -1e200), (0.3, -0.4)]);
    Complex(re, im)
}

/// Base64, some of which is hexadecimal, too.
const BYTES: [&str; 8] = ["", "AA==", "/////w==", "YWJj", "abcd", "1234", "deadbeef", "3q2+7w=="];

const NUMBERS: [i128; 14] = [
    0,
    1,
    -1,
    255,
    256,
    65_536,
    9_007_199_254_740_993,
    -9_007_199_254_740_993,
    i64::MAX as i128,
    i64::MAX as i128 + 1,
    u64::MAX as i128,
    u64::MAX as i128 + 1,
    i64::MIN as i128,
    i64::MIN as i128 - 1,
];

/// Any value at all.
pub fn any(random: &mut Random) -> Datum {
    match random.below(10) {
        0 => Null,
        1 => Bool(random.one_in(2)),
        2 | 3 => Int(*random.choose(&NUMBERS)),
        4 => Float(*random.choose(&FLOATS)),
        7 if random.one_in(2) => complex(random),
        7 => Id((*random.choose::<&str>(&["a", "abc", "a_1", "None"])).into()),
        8 => Link((*random.choose::<&str>(&["/a/b", "/a/b/c", "/a"])).into()),
        5 | 6 => Datum::text(random.choose::<&str>(&TEXTS)),
        // Two numbers are a complex one in some places, two texts are not.
        _ => Tuple((0..random.below(4)).map(|_| Datum::text(random.choose::<&str>(&TEXTS[..12]))).collect()),
    }
}
