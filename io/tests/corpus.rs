//! Every text of `tests/corpus` goes through each parser and each decoder: none may panic, hang or overflow.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use bumpalo::Bump;
use components::{decode, document::Document, encode, tbon};

/// The stack of a thread of the server.
const STACK_BYTES: usize = 2 * 1024 * 1024;

/// No text of the corpus takes longer, even on a busy machine and without optimisation.
const TEXT_TIMEOUT: Duration = Duration::from_secs(20);

fn decode_all(document: Document) {
    if let Ok(state) = decode::state(document) {
        let _ = encode::to_json(&state);
        let _ = decode::context(&state);
    }
    let _ = decode::scalar(document).map(|state| encode::to_json(&state));
    let _ = decode::key(document).map(|key| key.to_string());
}

#[test]
fn nasty_texts_are_values_or_errors() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut failed = Vec::new();
    let mut texts: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    texts.sort();
    assert!(texts.len() > 80, "the corpus is missing");
    for path in texts {
        let text = std::fs::read(&path).unwrap();
        let (done, finished) = mpsc::channel();
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            let _ = io::json::with_copy(&text, |document| {
                decode_all(document);
                Ok(())
            });
            let arena = Bump::new();
            if let Ok(document) = tbon::parse(&text, &arena) {
                decode_all(document);
            }
            done.send(()).unwrap();
        });
        drop(thread.unwrap());
        if let Err(error) = finished.recv_timeout(TEXT_TIMEOUT) {
            failed.push(format!("{}: {error}", path.file_name().unwrap().display()));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
