//! The id of a transaction: its place in the order of everything (protocol page 04 §2.1).

use std::fmt;
use std::str::FromStr;

use super::error::Error;

/// `<nanoseconds since the Unix epoch>-<nonce>`, ordered by time, then nonce.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TxnId {
    time_ns: u64,
    nonce: u16,
}

impl TxnId {
    /// Before every transaction: the id of what was there at the start.
    pub const ZERO: TxnId = TxnId { time_ns: 0, nonce: 0 };

    /// After every transaction.
    pub const MAX: TxnId = TxnId { time_ns: u64::MAX, nonce: u16::MAX };

    /// The id with the given time and nonce.
    pub const fn new(time_ns: u64, nonce: u16) -> Self {
        Self { time_ns, nonce }
    }

    /// Nanoseconds since the Unix epoch.
    pub fn time_ns(self) -> u64 {
        self.time_ns
    }

    /// Tells apart ids of one nanosecond.
    pub fn nonce(self) -> u16 {
        self.nonce
    }

    /// The last id before this one; zero is before everything.
    pub fn before(self) -> Self {
        match (self.time_ns, self.nonce) {
            (0, 0) => self,
            (time_ns, 0) => Self::new(time_ns - 1, u16::MAX),
            (time_ns, nonce) => Self::new(time_ns, nonce - 1),
        }
    }

    /// Ten bytes that sort as the ids do.
    pub fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.time_ns.to_be_bytes());
        bytes[8..].copy_from_slice(&self.nonce.to_be_bytes());
        bytes
    }

    /// The id that [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: [u8; 10]) -> Self {
        let (time_ns, nonce) = bytes.split_at(8);
        Self {
            time_ns: u64::from_be_bytes(time_ns.try_into().expect("eight bytes")),
            nonce: u16::from_be_bytes(nonce.try_into().expect("two bytes")),
        }
    }
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}-{}", self.time_ns, self.nonce)
    }
}

impl FromStr for TxnId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        text.split_once('-')
            .filter(|(time_ns, nonce)| digits(time_ns) && digits(nonce))
            .and_then(|(time_ns, nonce)| Some(Self::new(time_ns.parse().ok()?, nonce.parse().ok()?)))
            .ok_or_else(|| {
                Error::bad_request(format_args!("a transaction id is <nanoseconds>-<nonce>, not {text:?}"))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_parse_and_sort() {
        let id: TxnId = "1795331963804590303-18449".parse().unwrap();
        assert_eq!(id.to_string(), "1795331963804590303-18449");
        assert_eq!(TxnId::from_bytes(id.to_bytes()), id);
        assert!(TxnId::new(1, 9) < TxnId::new(2, 1) && TxnId::new(2, 1) < TxnId::new(2, 2));
        for bad in ["", "1", "1-", "-1", "1-2-3", "+1-2", "1-70000", "99999999999999999999-1", "a-b"] {
            assert!(bad.parse::<TxnId>().is_err(), "{bad:?}");
        }
    }
}
