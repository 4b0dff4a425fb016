//! Values as the checkpoint stores them: with a version and a checksum.
//!
//! ```text
//!   byte 0    1                9
//!        ┌────┬────────────────┬─────────┐
//!        │ 01 │ checksum       │ value … │     checksum: xxh3-64 of the value, little endian,
//!        └────┴────────────────┴─────────┘               seeded with the keyspace and the key
//! ```

use std::io;

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{Keyspace, StorageError};

/// The version of this layout.
pub const SEALED_VERSION: u8 = 1;

/// The bytes before the value.
pub const SEALED_HEADER_BYTES: usize = 9;

/// The seed ties a value to its place: a value that turns up under another key does not match.
fn checksum(keyspace: Keyspace, key: &[u8], value: &[u8]) -> u64 {
    let seed = xxh3_64(key) ^ u64::from(keyspace.number()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    xxh3_64_with_seed(value, seed)
}

/// What comes before a value in its sealed form.
pub fn sealed_header(keyspace: Keyspace, key: &[u8], value: &[u8]) -> [u8; SEALED_HEADER_BYTES] {
    let mut header = [SEALED_VERSION; SEALED_HEADER_BYTES];
    header[1..].copy_from_slice(&checksum(keyspace, key, value).to_le_bytes());
    header
}

/// Writes the sealed form of a value, which is [`SEALED_HEADER_BYTES`] longer than the value.
///
/// # Errors
/// Those of the output.
pub fn seal(output: &mut impl io::Write, keyspace: Keyspace, key: &[u8], value: &[u8]) -> io::Result<()> {
    output.write_all(&sealed_header(keyspace, key, value))?;
    output.write_all(value)
}

/// The value inside a sealed one, if it is whole and in its place.
pub fn unseal(keyspace: Keyspace, key: &[u8], sealed: Bytes) -> Result<Bytes, StorageError> {
    let corrupt = |reason| StorageError::Corrupt { keyspace, key: key.to_vec(), reason };
    if sealed.len() < SEALED_HEADER_BYTES {
        return Err(corrupt("it is too short to carry a checksum"));
    }
    if sealed[0] != SEALED_VERSION {
        return Err(corrupt("its format version is unknown"));
    }
    let value = sealed.slice(SEALED_HEADER_BYTES..);
    if sealed[1..SEALED_HEADER_BYTES] != checksum(keyspace, key, &value).to_le_bytes() {
        return Err(corrupt("its checksum does not match"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_only_in_its_own_place() {
        let mut buffer = Vec::new();
        seal(&mut buffer, Keyspace::Values, b"key", b"value").unwrap();
        assert_eq!(buffer.len(), SEALED_HEADER_BYTES + b"value".len());
        let sealed = Bytes::from(buffer);
        assert_eq!(unseal(Keyspace::Values, b"key", sealed.clone()).unwrap(), "value");
        assert!(unseal(Keyspace::Values, b"kez", sealed.clone()).is_err());
        assert!(unseal(Keyspace::Blocks, b"key", sealed.clone()).is_err());
        for position in 0..sealed.len() {
            let mut damaged = sealed.to_vec();
            damaged[position] ^= 0x10;
            assert!(unseal(Keyspace::Values, b"key", damaged.into()).is_err(), "byte {position}");
        }
        for length in 0..sealed.len() {
            assert!(unseal(Keyspace::Values, b"key", sealed.slice(..length)).is_err(), "length {length}");
        }
    }
}
