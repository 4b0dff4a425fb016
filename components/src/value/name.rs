//! Names of things: ids, paths and links (protocol page 01 §2.2).

use std::borrow::Borrow;
use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;

use super::error::{Error, Result};

use super::limits::{ID_BYTES_MAX, PATH_SEGMENTS_MAX};

/// The name of an entry, a member or a path segment.
///
/// Not empty, no whitespace or control character, and none of ``/ .. ~ $ ` & | = ^ { } < > ' " ? : @ # ( )``.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Id(Arc<str>);

impl Id {
    /// Check a name; an error says what is wrong with it.
    pub fn parse(name: &str) -> Result<Self> {
        if name.is_empty() {
            return Err(Error::bad_request("a name must not be empty"));
        }
        if name.len() > ID_BYTES_MAX {
            return Err(Error::bad_request(format_args!(
                "a name is longer than {ID_BYTES_MAX} bytes: {name}"
            )));
        }
        let forbidden = |c: char| c.is_control() || c.is_whitespace() || "/~$`&|=^{}<>'\"?:@#()".contains(c);
        if let Some(c) = name.chars().find(|c| forbidden(*c)) {
            return Err(Error::bad_request(format_args!("{c:?} is not allowed in the name {name:?}")));
        }
        if name.contains("..") {
            return Err(Error::bad_request(format_args!("'..' is not allowed in the name {name:?}")));
        }
        Ok(Self(name.into()))
    }

    /// An id that is known to be valid.
    ///
    /// # Panics
    /// If it is not.
    pub fn literal(name: &'static str) -> Self {
        Self::parse(name).expect("a valid literal id")
    }

    /// The text of this id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Id {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path: `/` or `/id/id/…`.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Path(Arc<[Id]>);

impl Path {
    /// The path `/`.
    pub fn root() -> Self {
        Self::default()
    }

    /// Parse a path; it starts with `/` and, unless it is `/`, does not end with one.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_within(text, PATH_SEGMENTS_MAX)
    }

    /// Parse a path that was stored: one that was made in the language may have had any number of segments.
    pub fn parse_stored(text: &str) -> Result<Self> {
        Self::parse_within(text, usize::MAX - 1)
    }

    fn parse_within(text: &str, segments_max: usize) -> Result<Self> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(Error::bad_request(format_args!("a path starts with '/': {text:?}")));
        };
        if rest.is_empty() {
            return Ok(Self::root());
        }
        if rest.ends_with('/') {
            return Err(Error::bad_request(format_args!("a path does not end with '/': {text:?}")));
        }
        let segments = rest.split('/').take(segments_max + 1).map(Id::parse).collect::<Result<Vec<_>>>()?;
        if segments.len() > segments_max {
            return Err(Error::bad_request(format_args!(
                "a path has at most {PATH_SEGMENTS_MAX} segments: {}…",
                &text[..text.floor_char_boundary(200)]
            )));
        }
        Ok(Self(segments.into()))
    }

    /// The text of a path of these segments.
    pub fn text_of(segments: &[Id]) -> String {
        if segments.is_empty() {
            return "/".to_string();
        }
        let mut text = String::with_capacity(segments.iter().map(|segment| segment.as_str().len() + 1).sum());
        for segment in segments {
            text.push('/');
            text.push_str(segment.as_str());
        }
        text
    }

    /// The segments of this path.
    pub fn segments(&self) -> &[Id] {
        &self.0
    }

    /// Whether this is the path `/`.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// This path with one more segment.
    pub fn append(&self, segment: Id) -> Self {
        Self(self.0.iter().cloned().chain([segment]).collect())
    }

    /// This path followed by the segments of another.
    pub fn join(&self, rest: &[Id]) -> Self {
        if rest.is_empty() { self.clone() } else { Self(self.0.iter().chain(rest).cloned().collect()) }
    }
}

/// A path is found by its segments: it is compared as they are.
impl Borrow<[Id]> for Path {
    fn borrow(&self) -> &[Id] {
        &self.0
    }
}

impl From<&[Id]> for Path {
    fn from(segments: &[Id]) -> Self {
        Self(segments.into())
    }
}

impl FromIterator<Id> for Path {
    fn from_iter<I: IntoIterator<Item = Id>>(segments: I) -> Self {
        Self(segments.into_iter().collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        self.0.iter().try_for_each(|segment| write!(f, "/{segment}"))
    }
}

/// A link: a path, on a named host or on this one.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Link {
    /// The origin as written (`http://127.0.0.1:8702`), or none for this host.
    origin: Option<Arc<str>>,
    /// The path at that host.
    path: Path,
}

impl Link {
    /// Parse a link: a path, or `http://` or `https://`, a host name or address, an optional port and a path.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_with(text, Path::parse)
    }

    /// Parse a link that was stored. See [`Path::parse_stored`].
    pub fn parse_stored(text: &str) -> Result<Self> {
        Self::parse_with(text, Path::parse_stored)
    }

    fn parse_with(text: &str, parse_path: fn(&str) -> Result<Path>) -> Result<Self> {
        if text.starts_with('/') {
            return Ok(Self { origin: None, path: parse_path(text)? });
        }
        let invalid = |why: &str| Error::bad_request(format_args!("{why}: {text:?} is not a link"));
        let scheme_len = ["http://", "https://"]
            .into_iter()
            .find(|scheme| text.starts_with(scheme))
            .map(str::len)
            .ok_or_else(|| invalid("a link starts with '/', 'http://' or 'https://'"))?;
        let authority_len = text[scheme_len..].find('/').unwrap_or(text.len() - scheme_len);
        let authority = &text[scheme_len..scheme_len + authority_len];
        if !is_authority(authority) {
            return Err(invalid("the host is not a name or address with an optional port"));
        }
        let rest = &text[scheme_len + authority_len..];
        // After a host one trailing slash is dropped.
        let rest = if rest.len() > 1 { rest.strip_suffix('/').unwrap_or(rest) } else { rest };
        let path = if rest.is_empty() { Path::root() } else { parse_path(rest)? };
        Ok(Self { origin: Some(text[..scheme_len + authority_len].into()), path })
    }

    /// The link of a path at the given origin.
    pub fn new(origin: Option<Arc<str>>, path: Path) -> Self {
        Self { origin, path }
    }

    /// The origin, `http://host:port`, or none for a path on this host.
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same link with one more path segment.
    pub fn append(&self, segment: Id) -> Self {
        Self { origin: self.origin.clone(), path: self.path.append(segment) }
    }
}

impl From<Path> for Link {
    fn from(path: Path) -> Self {
        Self { origin: None, path }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(origin) = &self.origin {
            f.write_str(origin)?;
        }
        write!(f, "{}", self.path)
    }
}

/// Whether a text is a host name or address, with or without a port: `example.com:80`, `127.0.0.1`, `[::1]:80`, `::1`.
fn is_authority(text: &str) -> bool {
    if let Some(bracketed) = text.strip_prefix('[') {
        let Some((address, rest)) = bracketed.split_once(']') else {
            return false;
        };
        let is_port = |port: &str| port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        return address.parse::<Ipv6Addr>().is_ok() && (rest.is_empty() || is_port(rest));
    }
    // The reference writes IPv6 addresses without brackets.
    if text.matches(':').count() > 1 {
        return text.parse::<Ipv6Addr>().is_ok();
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    host.split('.').all(is_label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// First path segments that no service may use (page 04 §1.3), sorted.
pub const RESERVED_SEGMENTS: [&str; 52] = [
    "actor",
    "actors",
    "admin",
    "administration",
    "administrator",
    "auth",
    "authenticate",
    "authentication",
    "authorization",
    "authorize",
    "authorized",
    "boot",
    "channel",
    "const",
    "crypt",
    "crypto",
    "decrypt",
    "decrypted",
    "decryption",
    "dev",
    "encrypt",
    "encrypted",
    "encryption",
    "error",
    "host",
    "https",
    "internal",
    "kernel",
    "link",
    "market",
    "null",
    "official",
    "op",
    "operations",
    "operator",
    "ops",
    "recycle",
    "recycling",
    "secure",
    "security",
    "shortcut",
    "sink",
    "socket",
    "ssl",
    "state",
    "symbolic",
    "symlink",
    "sys",
    "system",
    "tls",
    "token",
    "transact",
];

/// Whether a first path segment is reserved (page 04 §1.3, and the operators' endpoints of this host).
pub fn is_reserved(segment: &str) -> bool {
    RESERVED_SEGMENTS.binary_search(&segment).is_ok()
        || matches!(segment, "transaction" | "trash" | "user" | "users" | "waste")
        || matches!(segment, "debug" | "metrics" | "healthz" | "readyz" | "version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_by_its_segments_and_shown_as_they_are() {
        let texts = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/b"];
        let paths: std::collections::BTreeMap<Path, &str> =
            texts.iter().map(|text| (Path::parse(text).unwrap(), *text)).collect();
        for text in texts {
            let segments = Path::parse(text).unwrap().segments().to_vec();
            assert_eq!(Path::text_of(&segments), text);
            assert_eq!(Path::from(&*segments).to_string(), text);
            assert_eq!(paths.get(&*segments), Some(&text));
        }
        assert_eq!(paths.get(&[Id::parse("c").unwrap()][..]), None);
    }

    #[test]
    fn ids_refuse_separators_and_whitespace() {
        for good in ["a", "a-b_c.d+e,f[g%h", "0", "é", "Ā", "_return"] {
            assert_eq!(Id::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "$a", "a..b", "a\n", "a:b", "a\"", "(a)", "a=b"] {
            assert!(Id::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn links_print_as_they_parse() {
        for text in [
            "/",
            "/a/b",
            "http://127.0.0.1:8702/a",
            "https://example.com/x",
            "http://[::1]:80/x",
            "http://::1/x",
        ] {
            assert_eq!(Link::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Link::parse("http://127.0.0.1:80").unwrap().to_string(), "http://127.0.0.1:80/");
        assert_eq!(Link::parse("http://127.0.0.1:80/a/").unwrap().to_string(), "http://127.0.0.1:80/a");
        for bad in [
            "a",
            "/a/",
            "//",
            "http://",
            "http:///a",
            "http://a b/",
            "ftp://x/",
            "http://x:99999/",
            "/a//b",
            "http://[::::]/",
            "http://a..b/",
            "http://[::1]80/",
        ] {
            assert!(Link::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn reserved_segments_are_sorted() {
        assert!(RESERVED_SEGMENTS.is_sorted());
        assert!(is_reserved("transact") && is_reserved("waste") && !is_reserved("app"));
    }
}
