//! `tinychain restore`: from a backup to a data directory that a host can start on.

use std::fs::{self, File};
use std::io::{BufReader, Write, stdout};
use std::path::Path;

use crate::signals;
use crate::storage::backup::BackupReader;
use crate::storage::{DIRECTORY_NAME, StorageError, Store};
use crate::verify::verify_all;

/// How much memory the storage may take, in bytes.
const STORAGE_BYTES: u64 = 64 << 20;

/// The folder in the data directory in which a restoration works until it is complete.
const UNFINISHED_NAME: &str = ".restoring";

/// How much of the file is read at a time, in bytes.
const READ_BYTES: usize = 1 << 20;

/// Restore a backup into a data directory, which is made if it is missing and must hold no data. Only what is whole and
/// verified comes into its place.
///
/// # Errors
/// Why it cannot be restored, in one line. Then there is nothing in the data directory that was not there before.
pub fn run(file: &Path, data_directory: &Path) -> Result<(), String> {
    signals::install();
    let failed = |what: &str, path: &Path| {
        let place = format!("cannot {what} {}", path.display());
        move |cause: std::io::Error| format!("{place}: {cause}")
    };
    let backup = File::open(file).map_err(failed("open", file))?;
    let place = data_directory.join(DIRECTORY_NAME);
    if place.exists() {
        return Err(format!("{} holds data already; restore into a new directory", data_directory.display()));
    }
    let is_new = !data_directory.exists();
    fs::create_dir_all(data_directory).map_err(failed("make", data_directory))?;
    let unfinished = data_directory.join(UNFINISHED_NAME);
    let remove = || match fs::remove_dir_all(&unfinished) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    };
    // What an earlier one has left that did not come to its end.
    remove().map_err(failed("remove", &unfinished))?;
    fs::create_dir(&unfinished).map_err(failed("make", &unfinished))?;
    let restored = restore(&backup, &unfinished).map_err(|cause| format!("{}: {cause}", file.display()));
    let placed = restored.and_then(|entries| {
        fs::rename(unfinished.join(DIRECTORY_NAME), &place).map_err(failed("make", &place))?;
        let synced = File::open(data_directory).and_then(|directory| directory.sync_all());
        synced.map_err(failed("sync", data_directory))?;
        Ok(entries)
    });
    let removed = remove().map_err(failed("remove", &unfinished));
    if placed.is_err() && is_new {
        // It is empty, unless somebody else uses it.
        let _ = fs::remove_dir(data_directory);
    }
    let entries = placed?;
    removed?;
    // A closed stdout is no reason to say that something failed.
    let _ = writeln!(stdout(), "restored {entries} entries into {}", data_directory.display());
    Ok(())
}

/// Write what is in a backup into a new data directory, and verify it.
fn restore(backup: &File, directory: &Path) -> Result<u64, String> {
    let entries = fill(backup, directory).map_err(|cause| cause.to_string())?;
    let store = Store::open_directory(directory, STORAGE_BYTES).map_err(|cause| cause.to_string())?;
    let verified = verify_all(&store.reader())?;
    match verified.damages.first() {
        Some((what, why)) => Err(format!("what it holds is damaged: {what}: {why}")),
        None => Ok(entries),
    }
}

fn fill(backup: &File, directory: &Path) -> Result<u64, StorageError> {
    let mut backup = BackupReader::begin(BufReader::with_capacity(READ_BYTES, backup))?;
    let mut store = Store::open_directory(directory, STORAGE_BYTES)?;
    let mut count = 0;
    while let Some(entries) = backup.next_entries()? {
        count += entries.len() as u64;
        store.commit(&[entries])?;
    }
    store.close()?;
    Ok(count)
}
