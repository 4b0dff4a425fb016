//! What the host logs, to stderr: a line for each event, and nobody waits for whoever reads them.
//!
//! Lines go through a bounded queue to a thread of their own. What does not fit is dropped and counted, and the count is
//! logged as soon as there is room.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// How many lines may wait to be written.
const QUEUE_LINES_MAX: usize = 1_024;

/// How much of an event is logged, in bytes.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// How long the end of the process waits until all lines are written.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// What the thread is told.
enum Message {
    Line(Vec<u8>),
    /// Tell when everything before is written.
    Flush(Sender<()>),
}

/// Where lines are left.
#[derive(Clone)]
struct Queue {
    messages: Sender<Message>,
    /// How many lines did not fit.
    dropped: &'static AtomicU64,
}

impl Queue {
    /// A queue, and what its thread needs.
    fn new(lines_max: usize, dropped: &'static AtomicU64) -> (Self, Receiver<Message>) {
        let (messages, receiver) = bounded(lines_max);
        (Self { messages, dropped }, receiver)
    }

    fn push(&self, line: Vec<u8>) {
        if self.messages.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Write lines as they come, until there is nobody left who says something.
    fn drain(receiver: &Receiver<Message>, dropped: &AtomicU64, to: &mut impl Write) {
        let mut told = 0;
        for message in receiver {
            match message {
                // Nobody can be told that nothing can be told.
                Message::Line(line) => drop(to.write_all(&line)),
                Message::Flush(done) => drop((to.flush(), done.send(()))),
            }
            let dropped = dropped.load(Ordering::Relaxed);
            if dropped > told {
                drop(writeln!(to, "{} lines were not logged: nobody read them in time", dropped - told));
                told = dropped;
            }
        }
    }
}

impl Write for Queue {
    /// One event is one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Queue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

thread_local! {
    /// Whether a panic of this thread is no defect.
    static PANIC_IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Do what may panic because of what a client has sent: that is an answer, and no line in the log.
///
/// # Errors
/// What it panicked with.
pub fn without_panic<T>(work: impl FnOnce() -> T) -> thread::Result<T> {
    let before = PANIC_IS_EXPECTED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    PANIC_IS_EXPECTED.set(before);
    done
}

/// Lines of this process that were dropped.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many lines were not logged because nobody read them in time.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Writes what is left of the log when it is dropped, unless nobody reads it.
pub struct Log {
    queue: Queue,
}

impl Log {
    /// Log what the filter lets through, and each panic.
    ///
    /// # Errors
    /// Why there is no thread for it.
    pub fn start(filter: EnvFilter) -> Result<Self, String> {
        let (queue, receiver) = Queue::new(QUEUE_LINES_MAX, &DROPPED);
        thread::Builder::new()
            .name("log".into())
            .spawn(move || Queue::drain(&receiver, &DROPPED, &mut io::stderr()))
            .map_err(|cause| format!("cannot start the thread of the log: {cause}"))?;
        let has_colors =
            io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .event_format(Lines { has_colors })
            .with_writer(queue.clone())
            .init();
        // The hook of the standard library waits until its text is read.
        std::panic::set_hook(Box::new(|panic| {
            if PANIC_IS_EXPECTED.get() {
                return;
            }
            let name = thread::current().name().unwrap_or("without a name").to_string();
            tracing::error!("panic in thread {name}: {panic}");
        }));
        Ok(Self { queue })
    }

    /// Say something whatever the flags ask for, in a line.
    pub fn say(&self, text: &str) {
        let mut line = String::new();
        // Writing to a string does not fail.
        let _ = write_escaped(&mut line, text);
        line.push('\n');
        self.queue.push(line.into_bytes());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let (done, all_written) = bounded(1);
        if self.queue.messages.send_timeout(Message::Flush(done), FLUSH_TIMEOUT).is_ok() {
            let _ = all_written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// How an event looks: time, level, where, what.
struct Lines {
    has_colors: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        SystemTime.format_time(&mut writer)?;
        let level = metadata.level();
        match self.has_colors {
            true => write!(writer, " \x1b[{}m{level:>5}\x1b[0m {}: ", color(level), metadata.target())?,
            false => write!(writer, " {level:>5} {}: ", metadata.target())?,
        }
        let mut text = String::new();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            write!(text, "{}", span.name())?;
            match span.extensions().get::<FormattedFields<N>>() {
                Some(fields) if !fields.is_empty() => write!(text, "{{{fields}}}: ")?,
                _ => write!(text, ": ")?,
            }
        }
        context.field_format().format_fields(Writer::new(&mut text), event)?;
        write_escaped(&mut writer, &text)?;
        writeln!(writer)
    }
}

fn color(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    }
}

/// What may come from a client begins no line of its own and moves no cursor.
fn write_escaped(to: &mut impl fmt::Write, text: &str) -> fmt::Result {
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    let mut plain = 0;
    for (at, symbol) in text[..end].char_indices().filter(|(_, symbol)| is_escaped(*symbol)) {
        write!(to, "{}{}", &text[plain..at], symbol.escape_default())?;
        plain = at + symbol.len_utf8();
    }
    to.write_str(&text[plain..end])?;
    match text.len() - end {
        0 => Ok(()),
        more => write!(to, "… and {more} more bytes"),
    }
}

/// Whether a symbol controls how others are shown: also the ends of lines and the changes of direction of Unicode.
fn is_escaped(symbol: char) -> bool {
    symbol.is_control()
        || matches!(symbol, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn what_may_panic_is_an_error_and_only_while_it_runs() {
        assert!(without_panic(|| PANIC_IS_EXPECTED.get()).unwrap());
        let panicked = without_panic(|| -> u8 { std::panic::panic_any("of no consequence") });
        assert_eq!(*panicked.unwrap_err().downcast::<&str>().unwrap(), "of no consequence");
        assert!(!PANIC_IS_EXPECTED.get());
    }

    fn escaped(text: &str) -> String {
        let mut line = String::new();
        write_escaped(&mut line, text).unwrap();
        line
    }

    #[test]
    fn no_text_begins_a_line_or_moves_the_cursor() {
        assert_eq!(
            escaped("a\nERROR b\r\t\x1b[2J\u{9b}é\u{2028}\u{202e}"),
            "a\\nERROR b\\r\\t\\u{1b}[2J\\u{9b}é\\u{2028}\\u{202e}"
        );
        assert_eq!(escaped(""), "");
        let long = escaped(&"é".repeat(TEXT_BYTES_MAX));
        assert!(
            long.starts_with("éé") && long.ends_with(&format!("é… and {TEXT_BYTES_MAX} more bytes")),
            "{long}"
        );
    }

    #[test]
    fn an_event_is_a_line_without_colors() {
        #[derive(Clone, Default)]
        struct Text(Arc<Mutex<Vec<u8>>>);

        impl Write for Text {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let text = Text::default();
        let writer = text.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(Lines { has_colors: false })
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("outer", of = "x\ny").entered();
            tracing::warn!(path = "/a\nb", "forged\n2026-11-30 ERROR io: {}", "no\r");
        });
        let text = String::from_utf8(text.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.contains("  WARN io::log::tests: outer{")
                && text.contains("forged\\n2026-11-30 ERROR io: no\\r"),
            "{text}"
        );
        assert!(!text.contains('\x1b') && text.ends_with('\n'), "{text}");
    }

    /// A reader that reads a line when it is told to.
    struct Reluctant(Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Reluctant {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_whoever_reads_the_log_and_what_is_dropped_is_counted() {
        static LOST: AtomicU64 = AtomicU64::new(0);
        let (queue, receiver) = Queue::new(2, &LOST);
        let (go, gate) = bounded(0);
        let written = Arc::new(Mutex::new(Vec::new()));
        let mut reader = Reluctant(gate, written.clone());
        let thread = thread::spawn(move || Queue::drain(&receiver, &LOST, &mut reader));
        for _ in 0..100 {
            queue.push(b"line\n".to_vec());
        }
        // One line may be with the reader, two wait.
        let lost = LOST.load(Ordering::Relaxed);
        assert!((97..=98).contains(&lost), "{lost}");
        drop((go, queue));
        thread.join().unwrap();
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(written.matches("line\n").count() as u64, 100 - lost, "{written}");
        assert!(written.contains(&format!("{lost} lines were not logged")), "{written}");
    }
}
