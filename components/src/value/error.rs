//! Errors of the language and the host, each of one class of protocol page 01 §1.5.

use std::fmt;

/// The class of an [`Error`]: decides the HTTP status and the path under `/error` (page 01 §1.5).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ErrorKind {
    /// Undecodable input, a failed cast, a wrong argument, an unsupported operation: 400.
    BadRequest,
    /// Missing or bad credentials or scope: 401.
    Unauthorized,
    /// A disallowed action: 403.
    Forbidden,
    /// No such path, member, index or name: 404.
    NotFound,
    /// The path exists, the verb does not: 405.
    MethodNotAllowed,
    /// The request outlived its time limit: 408.
    Timeout,
    /// A lock or write conflict: 409.
    Conflict,
    /// The body, URL or result is larger than a configured limit: 413.
    TooLarge,
    /// A body of a type or encoding that is not understood: 415.
    UnsupportedMediaType,
    /// Anything unexpected, always a defect of the host: 500.
    Internal,
    /// A known feature that this host lacks: 501.
    NotImplemented,
    /// An unreachable or nonsensical peer: 502.
    BadGateway,
    /// A full queue or a host that is shutting down: 503.
    Unavailable,
}

impl ErrorKind {
    /// Every class, in order of status.
    pub const ALL: [ErrorKind; 13] = [
        ErrorKind::BadRequest,
        ErrorKind::Unauthorized,
        ErrorKind::Forbidden,
        ErrorKind::NotFound,
        ErrorKind::MethodNotAllowed,
        ErrorKind::Timeout,
        ErrorKind::Conflict,
        ErrorKind::TooLarge,
        ErrorKind::UnsupportedMediaType,
        ErrorKind::Internal,
        ErrorKind::NotImplemented,
        ErrorKind::BadGateway,
        ErrorKind::Unavailable,
    ];

    /// The name of this class: the last segment of its path under `/error`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Timeout => "timeout",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::Internal => "internal",
            Self::NotImplemented => "not_implemented",
            Self::BadGateway => "bad_gateway",
            Self::Unavailable => "unavailable",
        }
    }

    /// The class with the given name under `/error`, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The HTTP status of this class.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Timeout => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Internal => 500,
            Self::NotImplemented => 501,
            Self::BadGateway => 502,
            Self::Unavailable => 503,
        }
    }
}

/// An error with a class and a message for the person who reads it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// The result of any fallible operation of the language.
pub type Result<T> = std::result::Result<T, Error>;

macro_rules! constructor {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        $($(#[$doc])* pub fn $name(message: impl fmt::Display) -> Self {
            Self::new(ErrorKind::$kind, message)
        })*
    };
}

impl Error {
    /// The longest message that is kept, in bytes: a message often quotes what the client sent.
    pub const MESSAGE_BYTES_MAX: usize = 4096;

    /// An error of the given class; a message over [`Self::MESSAGE_BYTES_MAX`] is cut.
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        let mut message = message.to_string();
        if message.len() > Self::MESSAGE_BYTES_MAX {
            let end = message.floor_char_boundary(Self::MESSAGE_BYTES_MAX);
            message.truncate(end);
            message.push('…');
        }
        Self { kind, message }
    }

    constructor! {
        /// 400: the request is badly constructed or nonsensical.
        bad_request => BadRequest;
        /// 401: missing or bad credentials.
        unauthorized => Unauthorized;
        /// 403: the action is not allowed.
        forbidden => Forbidden;
        /// 404: there is nothing at this path or name.
        not_found => NotFound;
        /// 405: the path does not answer this verb.
        method_not_allowed => MethodNotAllowed;
        /// 408: the request outlived its time limit.
        timeout => Timeout;
        /// 409: something newer has read or written what this transaction needs.
        conflict => Conflict;
        /// 413: larger than a limit of this host.
        too_large => TooLarge;
        /// 415: the body is of a type or encoding that is not understood.
        unsupported_media_type => UnsupportedMediaType;
        /// 500: a defect of this host.
        internal => Internal;
        /// 501: a known feature that this host lacks.
        not_implemented => NotImplemented;
        /// 502: a peer cannot be reached or talks nonsense.
        bad_gateway => BadGateway;
        /// 503: the host is full or going down.
        unavailable => Unavailable;
    }

    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What went wrong, for a person.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same error, with where it happened in front of its message. Of a deep nesting only the innermost places
    /// are told: what went wrong stands last, and must not be cut.
    pub fn context(self, context: impl fmt::Display) -> Self {
        let message = format!("{context}: {}", self.message);
        if message.len() > Self::MESSAGE_BYTES_MAX { self } else { Self { kind: self.kind, message } }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)
    }
}

impl std::error::Error for Error {}
