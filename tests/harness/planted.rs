//! Faults that a host could have, planted between a sound one and the harness, which must find each of them.

use crate::http::{Answer, Request};
use crate::model::SERVICE;
use crate::steps::Runner;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// A write that was acknowledged is gone after the next start: it was acknowledged before it was on disk.
    AcknowledgedTooEarly,
    /// A read shows what there was before the last write.
    StaleRead,
    /// What is refused is done in spite of that.
    RefusedAndDone,
    /// What is done is answered as a failure.
    DoneAndRefused,
    /// A write is acknowledged and dropped.
    Dropped,
    /// A number loses its fraction on its way in.
    FractionCut,
    /// A bound that is included is not.
    BoundExcluded,
    /// A hypothetical write is a real one.
    HypothesisCommitted,
    /// An export lacks its last row, and an import says nothing of it.
    ExportCut,
    /// A deletion by a key that is not there takes another row with it.
    NeighbourDeleted,
    /// The count of an index that has forgotten a row.
    CountForgotten,
    /// A history cannot be read.
    HistoryLost,
}

impl Fault {
    pub const ALL: [Fault; 12] = [
        Fault::AcknowledgedTooEarly,
        Fault::StaleRead,
        Fault::RefusedAndDone,
        Fault::DoneAndRefused,
        Fault::Dropped,
        Fault::FractionCut,
        Fault::BoundExcluded,
        Fault::HypothesisCommitted,
        Fault::ExportCut,
        Fault::NeighbourDeleted,
        Fault::CountForgotten,
        Fault::HistoryLost,
    ];
}

/// How many requests pass unharmed between two faults.
const PERIOD: u64 = 5;

/// A host with a fault.
pub struct Faulty<R> {
    runner: R,
    fault: Fault,
    requests: u64,
    /// The last answer to each read.
    shown: std::collections::BTreeMap<String, Answer>,
    /// What undoes the last write.
    undo: Option<Request>,
    /// How often the fault has happened.
    pub happened: u64,
}

impl<R: Runner> Faulty<R> {
    pub fn new(runner: R, fault: Fault) -> Self {
        Self { runner, fault, requests: 0, shown: Default::default(), undo: None, happened: 0 }
    }

    fn answered(body: &str) -> Answer {
        Answer { status: 200, body: body.into() }
    }
}

/// The first number of a body with its fraction cut.
fn without_fraction(body: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(body).ok()?;
    let point = text.find(".5")?;
    let is_number = text[..point].ends_with(|c: char| c.is_ascii_digit());
    let is_whole = !text[point + 2..].starts_with(|c: char| c.is_ascii_digit() || c == 'e');
    (is_number && is_whole).then(|| format!("{}{}", &text[..point], &text[point + 2..]).into_bytes())
}

impl<R: Runner> Runner for Faulty<R> {
    fn call(&mut self, request: &Request) -> Answer {
        self.requests += 1;
        let is_due = self.requests.is_multiple_of(PERIOD);
        let is_put = request.verb == "PUT" || request.path.starts_with(&format!("{SERVICE}/put_"));
        let is_bulk = request.content_type.is_some();
        let is_hypothesis = request.path.starts_with("/transact");
        match self.fault {
            Fault::Dropped if is_put && is_due => {
                self.happened += 1;
                return Self::answered(if request.verb == "PUT" { "null" } else { "true" });
            }
            Fault::FractionCut if is_put && !is_bulk => {
                if let Some(body) = without_fraction(&request.body) {
                    self.happened += 1;
                    return self.runner.call(&Request { body, ..request.clone() });
                }
            }
            Fault::BoundExcluded if request.path.ends_with("/rows") => {
                let text = String::from_utf8_lossy(&request.body).replace("\"in\"", "\"ex\"");
                self.happened += 1;
                return self.runner.call(&Request { body: text.into_bytes(), ..request.clone() });
            }
            Fault::NeighbourDeleted if request.verb == "DELETE" => {
                let rows = self.runner.call(&Request::get(&format!("{}/rows", request.path)));
                let first = serde_json::from_slice::<serde_json::Value>(&rows.body).ok();
                let key = first.and_then(|rows| rows.get(0)?.get(0).cloned());
                let answer = self.runner.call(request);
                if let Some(key) = key {
                    self.happened += 1;
                    self.runner.call(&Request::delete(&request.path).key(format!("[{key}]")));
                }
                return answer;
            }
            _ => {}
        }
        let mut answer = self.runner.call(request);
        let is_done = answer.status == 200;
        match self.fault {
            Fault::StaleRead if request.verb == "GET" && is_done => {
                let before = self.shown.insert(request.path.clone(), answer.clone());
                if let Some(before) = before.filter(|_| is_due) {
                    self.happened += 1;
                    return before;
                }
            }
            Fault::RefusedAndDone if is_put && answer.status == 400 && request.path.ends_with("nothing") => {}
            Fault::RefusedAndDone if is_put && answer.status == 400 && !is_bulk => {
                // Another value, where this one was refused.
                self.happened += 1;
                self.runner.call(&Request::put(&format!("{SERVICE}/nothing"), format!("{}", self.requests)));
            }
            Fault::DoneAndRefused if is_put && is_done && is_due => {
                self.happened += 1;
                return Answer { status: 400, body: b"{\"/error/bad_request\":\"no\"}".to_vec() };
            }
            Fault::HypothesisCommitted if is_hypothesis && is_done => {
                let text = String::from_utf8_lossy(&request.body);
                // Literals are hypotheses, too.
                let Some(begin) = text.find("put_") else { return answer };
                let end = begin + text[begin..].find('"').expect("its end");
                let body = &text[end + 2..text.find("}],[\"count").expect("the second entry")];
                self.happened += 1;
                self.runner.call(&Request::post(&format!("{SERVICE}/{}", &text[begin..end]), body));
            }
            Fault::ExportCut
                if request.verb == "PUT" && is_bulk && is_done && !request.body.starts_with(b"[") =>
            {
                // As if the export had lacked a row that the import then took away.
                let rows = self.runner.call(&Request::get(&format!("{}/rows", request.path)));
                let rows = serde_json::from_slice::<serde_json::Value>(&rows.body).unwrap_or_default();
                if let Some(key) = rows.get(0).and_then(|row| row.get(0)) {
                    self.happened += 1;
                    self.runner.call(&Request::delete(&request.path).key(format!("[{key}]")));
                }
            }
            Fault::CountForgotten if request.path.ends_with("/count") && answer.body != b"0" && is_done => {
                self.happened += 1;
                answer.body = b"0".to_vec();
            }
            Fault::HistoryLost if request.path.ends_with("/chain") => {
                self.happened += 1;
                answer = Answer { status: 500, body: b"{\"/error/internal\":\"no\"}".to_vec() };
            }
            Fault::AcknowledgedTooEarly if request.verb == "PUT" && is_done && request.key.is_some() => {
                self.undo = Some(Request { verb: "DELETE", body: Vec::new(), ..request.clone() });
            }
            _ => {}
        }
        answer
    }

    fn crash_during(&mut self, request: &Request) -> Option<Answer> {
        self.runner.crash_during(request)
    }

    fn now_ns(&self) -> u64 {
        self.runner.now_ns()
    }

    fn restart(&mut self) {
        if let Some(undo) = self.undo.take() {
            self.happened += 1;
            self.runner.call(&undo);
        }
        self.runner.restart();
    }
}
