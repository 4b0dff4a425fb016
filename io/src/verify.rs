//! `tinychain verify`: everything that is kept, read and checked.

use std::io::{IsTerminal, Write, stderr, stdout};

use world::verify::{Verified, verify};

use crate::config::VerifyConfig;
use crate::server::on_stored_stack;
use crate::signals;
use crate::storage::{Reader, Store};

/// How much memory the storage may take, in bytes.
const STORAGE_BYTES: u64 = 64 << 20;

/// How wide the bar is that shows how far it is.
const BAR_CHARACTERS: u64 = 40;

/// Verify a data directory, and say what was found on stdout; how far it is on stderr, if that is a terminal.
///
/// # Errors
/// What is damaged, or why it cannot be read, in one line.
pub fn run(config: &VerifyConfig) -> Result<(), String> {
    signals::install();
    let store = Store::open_directory(&config.data_dir, STORAGE_BYTES).map_err(|cause| cause.to_string())?;
    let verified = verify_all(&store.reader())?;
    // A closed stdout is no reason to say that something is damaged.
    let _ = stdout().write_all(report(&verified).as_bytes());
    match verified.damages.len() {
        0 => Ok(()),
        1 => Err("1 thing is damaged".to_string()),
        count => Err(format!("{count} things are damaged")),
    }
}

/// Check everything that is stored, and show on stderr how far it is, if that is a terminal.
///
/// # Errors
/// If there is no thread to do it.
pub fn verify_all(storage: &Reader) -> Result<Verified, String> {
    let is_shown = stderr().is_terminal();
    let mut shown = None;
    let verified = on_stored_stack(|| {
        let mut progress = |done: u64, all: u64| {
            let percent = 100 * done / all.max(1);
            if is_shown && shown != Some(percent) {
                shown = Some(percent);
                let _ = stderr().write_all(bar(percent, done, all).as_bytes());
            }
        };
        let mut verified = verify(storage, &mut progress);
        // What no chain calls for is counted, too.
        if let Err(cause) = storage.verify() {
            verified.damages.push(("the storage".to_string(), cause.to_string()));
        }
        Ok(verified)
    });
    if is_shown {
        let _ = writeln!(stderr());
    }
    verified
}

fn bar(percent: u64, done: u64, all: u64) -> String {
    let full = "#".repeat((percent * BAR_CHARACTERS / 100) as usize);
    format!(
        "\r[{full:<width$}] {percent:>3} %  {done} of {all} blocks and pages",
        width = BAR_CHARACTERS as usize
    )
}

/// What was found, for people.
pub fn report(verified: &Verified) -> String {
    let Verified { chains, blocks, transactions, pages, rows, lost_pages, damages } = verified;
    let mut text = String::new();
    for (what, why) in damages {
        text.push_str(&format!("damaged: {what}: {why}\n"));
    }
    if *lost_pages > 0 {
        text.push_str(&format!("{lost_pages} pages belong to nothing; they only take space\n"));
    }
    let did = if damages.is_empty() { "verified" } else { "looked at" };
    text.push_str(&format!(
        "{did} {chains} chains: {transactions} transactions in {blocks} blocks, {rows} rows, {pages} pages\n"
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_full_when_all_is_done() {
        assert!(bar(0, 0, 7).contains(&format!("[{}]   0 %", " ".repeat(40))));
        assert!(bar(100, 7, 7).contains(&format!("[{}] 100 %  7 of 7", "#".repeat(40))));
    }

    #[test]
    fn damage_is_named_first() {
        let damages = vec![("/app/x".to_string(), "block 1 is missing".to_string())];
        let verified = Verified { chains: 2, damages, ..Verified::default() };
        let report = report(&verified);
        assert!(report.starts_with("damaged: /app/x: block 1 is missing\nlooked at 2 chains: "), "{report}");
    }
}
