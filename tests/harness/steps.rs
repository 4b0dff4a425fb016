//! Random steps, and what must hold after each of them.

use std::cmp::Ordering;

use serde_json::{Value, json};

use crate::datum::{Class, Datum, any};
use crate::http::{Answer, Request};
use crate::model::{Chain, Collection, Expected, Row, SERVICE};
use crate::random::Random;
use crate::tbon;

const ARROW: &str = "application/vnd.apache.arrow.stream";
const CSV: &str = "text/csv";
const JSON: &str = "application/json";
const TBON: &str = "application/tbon";

/// After how many differences a run ends.
const DIFFERENCES_MAX: usize = 12;

/// A method that locks a value and never ends, for those who plant faults.
pub const HOLD: &str = "hold";

/// A host that takes requests.
pub trait Runner {
    /// Ask, and wait for the answer.
    fn call(&mut self, request: &Request) -> Answer;

    /// Kill it, and start it again on what it has stored.
    fn restart(&mut self);

    /// Ask, kill it at some moment of that, and start it again; the answer, if it came.
    fn crash_during(&mut self, request: &Request) -> Option<Answer>;

    /// Its clock, in nanoseconds since the Unix epoch.
    fn now_ns(&self) -> u64;

    /// Whether it shows rows in other formats than JSON.
    fn has_formats(&self) -> bool {
        true
    }

    /// Whatever must hold at the end.
    fn end(&mut self) {}
}

fn list(row: &[Datum]) -> String {
    Datum::Tuple(row.to_vec()).json()
}

/// The configuration of the service.
pub fn cluster() -> Value {
    let mut members = serde_json::Map::new();
    for collection in Collection::all() {
        let name = collection.name;
        members.insert(name.into(), collection.declaration());
        let (subject, put) = (format!("$self/{name}"), format!("put_{name}"));
        let (key, value) = if collection.is_table { ("$k", "$v") } else { ("$none", "$k") };
        let key = if key == "$none" { Value::Null } else { json!({ key: [] }) };
        members.insert(put, method(json!({ (subject.clone()): [key, { value: [] }] })));
        let delete = json!({ "/state/scalar/ref/op/delete": [{ (subject): [] }, { "$k": [] }] });
        members.insert(format!("delete_{name}"), method(delete));
    }
    for chain in Chain::all() {
        members.insert(chain.name.into(), chain.declaration());
        let set = json!({ (format!("$self/{}", chain.name)): [null, { "$v": [] }] });
        members.insert(format!("put_{}", chain.name), method(set));
    }
    let endless = json!({ "/state/scalar/ref/while": [
        { "/state/scalar/op/post": [["_return", { "$i/gte": [0] }]] },
        { "/state/scalar/op/post": [["_return", { "i": { "$i/add": [1] } }]] },
        { "i": 0 },
    ] });
    let held = json!({ "/state/scalar/ref/after": [{ "$self/number": [null, 0] }, endless] });
    members.insert(HOLD.into(), json!({ "/state/scalar/op/post": [["_return", held]] }));
    json!({ SERVICE: members })
}

/// A POST method that does one thing, and answers `true`.
fn method(write: Value) -> Value {
    json!({ "/state/scalar/op/post": [["_return", { "/state/scalar/ref/after": [write, true] }]] })
}

/// A host, and what it must be like.
pub struct Harness<R> {
    pub runner: R,
    collections: Vec<Collection>,
    chains: Vec<Chain>,
    random: Random,
    /// What was done, for whoever reads of a failure.
    trace: Vec<String>,
    /// How often each kind of step was done, refused and left open.
    pub done: u64,
    pub refused: u64,
    pub open: u64,
}

impl<R: Runner> Harness<R> {
    pub fn new(runner: R, seed: u64) -> Self {
        let (collections, chains) = (Collection::all(), Chain::all());
        let random = Random::new(seed);
        Self { runner, collections, chains, random, trace: Vec::new(), done: 0, refused: 0, open: 0 }
    }

    /// Do so many random steps; how the host differs from the model, if it does: up to [`DIFFERENCES_MAX`] times.
    pub fn run(&mut self, steps: usize) -> Result<(), String> {
        let mut differences = Vec::new();
        for _ in 0..steps {
            if let Err(why) = self.step() {
                differences.push(self.explained(why));
                if differences.len() == DIFFERENCES_MAX {
                    break;
                }
                // What comes after it is worth knowing, too.
                if let Err(why) = self.adopt() {
                    differences.push(why);
                    break;
                }
            }
        }
        if differences.is_empty() {
            self.runner.restart();
            self.check_all().map_err(|why| self.explained(format!("after the last restart: {why}")))?;
            self.runner.end();
            return Ok(());
        }
        Err(differences.join("\n\n"))
    }

    /// Go on with what the host shows.
    fn adopt(&mut self) -> Result<(), String> {
        for at in 0..self.collections.len() {
            self.collections[at].rows = self.rows(at)?;
        }
        for at in 0..self.chains.len() {
            let shown = self.runner.call(&Request::get(&self.chains[at].path()));
            (self.chains[at].value, self.chains[at].written) = (Datum::of(&parse(&shown)?), None);
        }
        Ok(())
    }

    fn explained(&self, why: String) -> String {
        let last = self.trace.len().saturating_sub(3);
        format!("{why}\nthe last steps:\n{}", self.trace[last..].join("\n"))
    }

    fn call(&mut self, request: &Request) -> Answer {
        let key = request.key.as_deref().unwrap_or_default();
        let body = String::from_utf8_lossy(&request.body);
        let body: String = body.chars().take(600).collect();
        let what = format!("{} {} {key} {:?} {body}", request.verb, request.path, request.content_type);
        let answer = self.runner.call(request);
        let shown: String = String::from_utf8_lossy(&answer.body).chars().take(300).collect();
        self.trace.push(format!("{what} -> {} {shown}", answer.status));
        answer
    }

    fn step(&mut self) -> Result<(), String> {
        let at = self.random.below(self.collections.len());
        match self.random.below(32) {
            0..=5 => self.put_one(at),
            6..=8 => self.put_many(at),
            9..=11 => self.delete(at),
            12..=14 => self.find(at),
            15 | 16 => self.bounds(at),
            17 => {
                let format = *self.random.choose(&[CSV, ARROW, TBON]);
                self.feed_back(at, if self.runner.has_formats() { format } else { JSON })
            }
            18 => self.hypothesis(at),
            19..=22 => self.put_value(),
            23 => self.restart(),
            24 | 25 => self.crash(at),
            26 => self.crash_value(),
            27 | 28 => self.literal(at),
            _ => self.late(),
        }
    }

    /// Kill it and start it again: everything is there, and nobody writes before what was.
    fn restart(&mut self) -> Result<(), String> {
        let before_ns = self.runner.now_ns();
        self.runner.restart();
        self.check_all().map_err(|why| format!("after a restart: {why}"))?;
        let at = self.random.below(self.chains.len());
        self.must_be_too_late(at, before_ns).map_err(|why| format!("after a restart: {why}"))
    }

    /// A write below a read comes too late (page 04 §5).
    fn late(&mut self) -> Result<(), String> {
        let at = self.random.below(self.chains.len());
        let read_ns = self.runner.now_ns() + 1_000_000;
        let read = Request::get(&self.chains[at].path()).at(read_ns);
        let answer = self.call(&read);
        let is_same = answer.status == 200 && self.chains[at].value.is_same(&Datum::of(&parse(&answer)?));
        if !is_same {
            return Err(format!("a read at {read_ns}: {} {:?}", answer.status, parse(&answer)));
        }
        self.must_be_too_late(at, read_ns - 1)
    }

    fn must_be_too_late(&mut self, at: usize, time_ns: u64) -> Result<(), String> {
        let value = self.chains[at].value.clone();
        // Another value than the one that is there.
        let other = match &value {
            Datum::Text(text) if text.is_empty() => Datum::text("late"),
            Datum::Text(_) => Datum::text(""),
            Datum::Int(1) => Datum::Int(2),
            _ => Datum::Int(1),
        };
        let write = Request::put(&self.chains[at].path(), other.json()).at(time_ns);
        let answer = self.call(&write);
        if !matches!(answer.status, 400 | 409) {
            return Err(format!("a write at {time_ns}, which is too late, was answered {}", answer.status));
        }
        self.check_value(at)
    }

    /// A write in the middle of which it is killed has happened, or it has not.
    fn crash(&mut self, at: usize) -> Result<(), String> {
        let before = self.collections[at].clone();
        let row = before.pick(&mut self.random);
        let request = self.row_request(at, &row);
        let mut after = before.clone();
        let expected = after.put(std::slice::from_ref(&row));
        let answer = self.crash_during(&request);
        if let Some(answer) = &answer {
            self.judge(answer, expected)?;
        }
        let shown = self.rows(at)?;
        let is_done = answer.map(|answer| answer.status == 200);
        let is_before = is_done != Some(true) && before.difference(&shown).is_none();
        let is_after = is_done != Some(false) && after.difference(&shown).is_none();
        match expected {
            Expected::Done if is_after => self.collections[at] = after,
            Expected::Done | Expected::Refused if is_before => {}
            Expected::Either => self.collections[at].rows = shown,
            _ => {
                let (before, after) = (before.difference(&shown), after.difference(&shown));
                return Err(format!("after a crash ({is_done:?}) neither {before:?} nor {after:?}"));
            }
        }
        self.check_all().map_err(|why| format!("after a crash: {why}"))
    }

    fn crash_value(&mut self) -> Result<(), String> {
        let at = self.random.below(self.chains.len());
        let value = any(&mut self.random);
        let before = self.chains[at].clone();
        let mut after = before.clone();
        let expected = after.put(&value);
        let answer = self.crash_during(&Request::put(&before.path(), value.json()));
        if let Some(answer) = &answer {
            self.judge(answer, expected)?;
        }
        let shown = self.runner.call(&Request::get(&before.path()));
        let shown = Datum::of(&parse(&shown)?);
        let is_done = answer.map(|answer| answer.status == 200);
        if expected == Expected::Either {
            // Whether it was done is seen by its history alone.
            (self.chains[at].value, self.chains[at].written) = (shown, None);
        } else if expected == Expected::Done && is_done != Some(false) && after.value.is_same(&shown) {
            // The same value as before tells nothing.
            let is_known = is_done == Some(true) || !before.value.is_same(&after.value);
            self.chains[at] = after;
            self.chains[at].written = self.chains[at].written.take().filter(|_| is_known);
        } else if is_done == Some(true) || !before.value.is_same(&shown) {
            return Err(format!("after a crash ({is_done:?}) {} is {shown:?}", before.name));
        }
        self.check_all().map_err(|why| format!("after a crash: {why}"))
    }

    fn crash_during(&mut self, request: &Request) -> Option<Answer> {
        let answer = self.runner.crash_during(request);
        let body: String = String::from_utf8_lossy(&request.body).chars().take(600).collect();
        let status = answer.as_ref().map(|answer| answer.status);
        self.trace.push(format!("{} {} {body}, and a crash -> {status:?}", request.verb, request.path));
        answer
    }

    /// The answer must be as expected; whether the model goes on with what the host shows.
    fn judge(&mut self, answer: &Answer, expected: Expected) -> Result<(), String> {
        let text = || String::from_utf8_lossy(&answer.body);
        match (answer.status, expected) {
            (200, Expected::Done) => self.done += 1,
            (400 | 413, Expected::Refused) => self.refused += 1,
            (200 | 400, Expected::Either) => self.open += 1,
            (status, expected) => {
                return Err(format!("it was answered {status} ({}), not {expected:?}", text()));
            }
        }
        if answer.status != 200 && !text().starts_with("{\"/error/") {
            return Err(format!("an error without a name: {}", text()));
        }
        Ok(())
    }

    fn put_one(&mut self, at: usize) -> Result<(), String> {
        let row = self.collections[at].pick(&mut self.random);
        let request = self.row_request(at, &row);
        self.write(at, std::slice::from_ref(&row), &request)
    }

    /// A request that writes a row.
    fn row_request(&mut self, at: usize, row: &[Datum]) -> Request {
        let collection = &self.collections[at];
        let key_len = collection.key_len.min(row.len());
        let (key, values) = row.split_at(key_len);
        let is_program = !collection.is_table || self.random.one_in(2);
        match is_program {
            true => {
                let body = format!("{{\"k\":{},\"v\":{}}}", list(key), list(values));
                let body = if collection.is_table { body } else { format!("{{\"k\":{}}}", list(key)) };
                Request::post(&format!("{SERVICE}/put_{}", collection.name), body)
            }
            false => Request::put(&collection.path(), list(values)).key(list(key)),
        }
    }

    fn put_many(&mut self, at: usize) -> Result<(), String> {
        let collection = &self.collections[at];
        let rows: Vec<Row> =
            (0..1 + self.random.below(6)).map(|_| collection.pick(&mut self.random)).collect();
        if !collection.reads_lists_as_rows() {
            return Ok(());
        }
        let is_document = rows.iter().flatten().all(Datum::is_document);
        let request = if is_document && self.runner.has_formats() && self.random.one_in(3) {
            let mut body = Vec::new();
            Datum::Tuple(rows.iter().cloned().map(Datum::Tuple).collect()).tbon(&mut body);
            Request::put(&collection.path(), body).of_type(TBON)
        } else {
            let body: Vec<String> = rows.iter().map(|row| list(row)).collect();
            Request::put(&collection.path(), format!("[{}]", body.join(","))).of_type(JSON)
        };
        self.write(at, &rows, &request)
    }

    /// Write rows, and see that they are there, or that nothing has changed.
    fn write(&mut self, at: usize, rows: &[Row], request: &Request) -> Result<(), String> {
        let mut after = self.collections[at].clone();
        let expected = after.put(rows);
        let answer = self.call(request);
        self.judge(&answer, expected)?;
        match (expected, answer.status) {
            (Expected::Done, _) => self.collections[at] = after,
            (Expected::Either, 200) => self.collections[at].rows = self.rows(at)?,
            _ => {}
        }
        self.check(at)
    }

    fn delete(&mut self, at: usize) -> Result<(), String> {
        let collection = &self.collections[at];
        let key = collection.pick_key(&mut self.random);
        let request = match self.random.one_in(2) {
            true => Request::delete(&collection.path()).key(list(&key)),
            false => {
                let path = format!("{SERVICE}/delete_{}", collection.name);
                Request::post(&path, format!("{{\"k\":{}}}", list(&key)))
            }
        };
        let answer = self.call(&request);
        // A value that the column cannot hold finds nothing, or is refused; either way nothing else goes.
        self.judge(&answer, Expected::Either)?;
        if answer.status == 200 && self.collections[at].is_open(&key) {
            self.collections[at].rows = self.rows(at)?;
        } else if answer.status == 200 {
            match self.collections[at].is_table {
                true => self.collections[at].delete(&key),
                false => self.collections[at].delete_prefix(&key),
            }
        }
        self.check(at)
    }

    fn find(&mut self, at: usize) -> Result<(), String> {
        let collection = &self.collections[at];
        if !collection.is_table {
            return self.check_count(at);
        }
        let key = collection.pick_key(&mut self.random);
        let expected = collection.find(&key).cloned();
        let path = collection.path();
        let answer = self.call(&Request::get(&path).key(list(&key)));
        self.judge(&answer, Expected::Either)?;
        if self.collections[at].is_open(&key) {
            return Ok(());
        }
        if answer.status == 200 {
            let found = parse(&answer)?;
            let is_right = match (&expected, Datum::of(&found)) {
                (None, Datum::Null) => true,
                (Some(row), Datum::Tuple(_)) => {
                    let mut one = self.collections[at].clone();
                    one.rows = vec![row.clone()];
                    one.difference(&one.rows_of(&json!([found]))?).is_none()
                }
                _ => false,
            };
            if !is_right {
                return Err(format!(
                    "{} has {found} at {key:?}, not {expected:?}",
                    self.collections[at].name
                ));
            }
            let answer = self.call(&Request::get(&format!("{path}/contains")).key(list(&key)));
            if (answer.status, parse(&answer)?) != (200, json!(expected.is_some())) {
                return Err(format!("whether it contains {key:?} is not {}", expected.is_some()));
            }
        } else if expected.is_some() {
            return Err(format!("a key that is there was refused: {key:?}"));
        }
        Ok(())
    }

    /// Rows between two values of a column, compared by value.
    fn bounds(&mut self, at: usize) -> Result<(), String> {
        let collection = &self.collections[at];
        if !collection.is_table {
            return Ok(());
        }
        let column = self.random.below(collection.columns.len());
        let (name, class) = collection.columns[column].clone();
        let held = |random: &mut Random| random.choose(&collection.rows)[column].clone();
        let bound = |random: &mut Random| loop {
            let datum = if !collection.rows.is_empty() && random.one_in(2) {
                held(random)
            } else if random.one_in(3) {
                any(random)
            } else {
                class.pick(random)
            };
            let is_number =
                matches!(datum, Datum::Float(_)) || matches!(datum, Datum::Int(_)) && datum.is_document();
            match class {
                Class::String if matches!(datum, Datum::Text(_)) => return Some(datum),
                Class::Integer { .. } | Class::F32 | Class::F64 if is_number => return Some(datum),
                Class::String | Class::Integer { .. } | Class::F32 | Class::F64 => {}
                _ => return None,
            }
        };
        let (Some(low), Some(high)) = (bound(&mut self.random), bound(&mut self.random)) else {
            return Ok(());
        };
        let (low_meant, high_meant) = (class.meant(low.clone()), class.meant(high.clone()));
        let (low_tag, high_tag) = (*self.random.choose(&["in", "ex"]), *self.random.choose(&["in", "ex"]));
        let shape = self.random.below(4);
        let low_json = format!("[\"{low_tag}\",{}]", low.json());
        let high_json = format!("[\"{high_tag}\",{}]", high.json());
        let range = match shape {
            0 => format!("[{low_json},{high_json}]"),
            1 => format!("[{low_json},null]"),
            2 => format!("[null,{high_json}]"),
            _ => low.json(),
        };
        let is_wanted = |datum: &Datum| {
            let (from_low, to_high) = (datum.compare(&low_meant), datum.compare(&high_meant));
            let is_low = from_low == Ordering::Greater || (low_tag == "in" && from_low == Ordering::Equal);
            let is_high = to_high == Ordering::Less || (high_tag == "in" && to_high == Ordering::Equal);
            match shape {
                0 => is_low && is_high,
                1 => is_low,
                2 => is_high,
                _ => from_low == Ordering::Equal,
            }
        };
        let mut wanted = collection.clone();
        wanted.rows.retain(|row| is_wanted(&row[column]));
        let request =
            Request::post(&format!("{}/rows", collection.path()), format!("{{\"{name}\":{range}}}"));
        let answer = self.call(&request);
        self.judge(&answer, Expected::Done)?;
        // An index may have chosen another order.
        let mut rows = wanted.rows_of(&parse(&answer)?)?;
        rows.sort_by(|this, that| crate::model::compare(&this[..wanted.key_len], &that[..wanted.key_len]));
        match wanted.difference(&rows) {
            Some(why) => Err(format!("{name} within {range}: {why}")),
            None => Ok(()),
        }
    }

    /// What is shown in a format reads back as the same rows.
    fn feed_back(&mut self, at: usize, format: &'static str) -> Result<(), String> {
        let collection = &self.collections[at];
        // An empty list is the key of a tree that has no values.
        let is_key = !collection.is_table && collection.rows.is_empty();
        if matches!(format, JSON | TBON) && (is_key || !collection.reads_lists_as_rows()) {
            return Ok(());
        }
        let path = self.collections[at].path();
        let shown = self.call(&Request::get(&path).accept(format));
        self.judge(&shown, Expected::Done)?;
        let body = match format {
            JSON => self.shown_rows(at, &parse(&shown)?)?.to_string().into_bytes(),
            TBON => {
                let rows = self.shown_rows(at, &tbon::decode(&shown.body)?)?;
                let rows = self.collections[at].rows_of(&rows)?;
                let mut body = Vec::new();
                Datum::Tuple(rows.into_iter().map(Datum::Tuple).collect()).tbon(&mut body);
                body
            }
            _ => shown.body,
        };
        let answer = self.call(&Request::put(&path, body).of_type(format));
        self.judge(&answer, Expected::Done)?;
        self.check(at).map_err(|why| format!("after its own {format}: {why}"))
    }

    /// What is shown is a literal: a program that has it shows the same. So is the history of a block chain, which is replayed.
    fn literal(&mut self, at: usize) -> Result<(), String> {
        let collection = &self.collections[at];
        let of_history = collection.is_block && self.random.one_in(2);
        let path = if of_history { format!("{}/chain", collection.path()) } else { collection.path() };
        let shown = self.call(&Request::get(&path));
        self.judge(&shown, Expected::Done)?;
        let answer = self.call(&Request::post("/transact/hypothetical", shown.body.clone()));
        self.judge(&answer, Expected::Done)?;
        if let Some(why) = difference(&parse(&shown)?, &parse(&answer)?) {
            return Err(format!("{path} as a literal differs: {why}"));
        }
        self.check(at)
    }

    /// What would happen leaves no trace.
    fn hypothesis(&mut self, at: usize) -> Result<(), String> {
        let collection = &self.collections[at];
        let row = collection.pick(&mut self.random);
        let key_len = collection.key_len.min(row.len());
        let (key, values) = row.split_at(key_len);
        let mut parameters = format!("\"k\":{}", list(key));
        if collection.is_table {
            parameters += &format!(",\"v\":{}", list(values));
        }
        let body = format!(
            "[[\"done\",{{\"{SERVICE}/put_{}\":{{{parameters}}}}}],[\"count\",{{\"/state/scalar/ref/after\":\
             [{{\"$done\":[]}},{{\"{}/count\":[null]}}]}}]]",
            collection.name,
            collection.path(),
        );
        let mut after = collection.clone();
        let expected = after.put(&[row]);
        let answer = self.call(&Request::post("/transact/hypothetical", body));
        self.judge(&answer, expected)?;
        if expected == Expected::Done && parse(&answer)? != json!(after.rows.len()) {
            return Err(format!("there would be {} rows", after.rows.len()));
        }
        self.check(at)
    }

    fn put_value(&mut self) -> Result<(), String> {
        let at = self.random.below(self.chains.len());
        let value = any(&mut self.random);
        let chain = &self.chains[at];
        let request = match self.random.one_in(2) {
            true => Request::put(&chain.path(), value.json()),
            false => {
                let path = format!("{SERVICE}/put_{}", chain.name);
                Request::post(&path, format!("{{\"v\":{}}}", value.json()))
            }
        };
        let mut after = chain.clone();
        let expected = after.put(&value);
        let answer = self.call(&request);
        self.judge(&answer, expected)?;
        match (expected, answer.status) {
            (Expected::Done, _) => self.chains[at] = after,
            (Expected::Either, 200) => {
                let shown = self.runner.call(&Request::get(&after.path()));
                self.chains[at].set(Datum::of(&parse(&shown)?));
            }
            _ => {}
        }
        self.check_value(at)
    }

    fn check_value(&mut self, at: usize) -> Result<(), String> {
        let chain = &self.chains[at];
        let answer = self.runner.call(&Request::get(&chain.path()));
        let shown = parse(&answer)?;
        if answer.status == 200 && chain.value.is_same(&Datum::of(&shown)) {
            return Ok(());
        }
        Err(format!("{} is {} {shown}, not {:?}", chain.name, answer.status, chain.value))
    }

    /// The rows as the host shows them.
    fn rows(&mut self, at: usize) -> Result<Vec<Row>, String> {
        let answer = self.runner.call(&Request::get(&self.collections[at].path()));
        let rows = self.shown_rows(at, &parse(&answer)?)?;
        self.collections[at].rows_of(&rows)
    }

    /// The rows in a collection that is shown.
    fn shown_rows(&self, at: usize, shown: &Value) -> Result<Value, String> {
        let class = if self.collections[at].is_table { "table" } else { "btree" };
        let rows = shown.get(format!("/state/collection/{class}")).and_then(|content| content.get(1));
        rows.cloned().ok_or_else(|| format!("{} is not shown: {shown}", self.collections[at].path()))
    }

    /// What is shown is what there must be.
    fn check(&mut self, at: usize) -> Result<(), String> {
        let rows = self.rows(at)?;
        let collection = &self.collections[at];
        match collection.difference(&rows) {
            Some(why) => Err(format!("{} shows {why}", collection.name)),
            None if self.random.one_in(4) => self.check_count(at),
            None => Ok(()),
        }
    }

    fn check_count(&mut self, at: usize) -> Result<(), String> {
        let path = format!("{}/count", self.collections[at].path());
        let answer = self.runner.call(&Request::get(&path));
        let (count, expected) = (parse(&answer)?, json!(self.collections[at].rows.len()));
        if count == expected { Ok(()) } else { Err(format!("{path} is {count}, not {expected}")) }
    }

    /// Everything, and every history.
    fn check_all(&mut self) -> Result<(), String> {
        for at in 0..self.collections.len() {
            self.check(at)?;
        }
        for at in 0..self.chains.len() {
            self.check_value(at)?;
        }
        for path in
            self.collections.iter().filter(|one| one.is_block).map(Collection::path).collect::<Vec<_>>()
        {
            self.history(&path)?;
        }
        for at in 0..self.chains.len() {
            if self.chains[at].is_block() {
                let history = self.history(&self.chains[at].path())?;
                if let Some(why) = self.chains[at].history_difference(&history) {
                    return Err(why);
                }
                self.chains[at].written = self.chains[at].recorded(&history);
            }
        }
        Ok(())
    }

    /// The history of a chain.
    fn history(&mut self, path: &str) -> Result<Value, String> {
        let answer = self.runner.call(&Request::get(&format!("{path}/chain")));
        match answer.status {
            200 => parse(&answer),
            _ => Err(format!("the history of {path}: {}", String::from_utf8_lossy(&answer.body))),
        }
    }
}

/// Where two documents differ first, if they do.
fn difference(this: &Value, that: &Value) -> Option<String> {
    match (this, that) {
        (Value::Array(these), Value::Array(those)) if these.len() == those.len() => {
            let pairs = these.iter().zip(those).enumerate();
            pairs.into_iter().find_map(|(at, (this, that))| Some(format!("{at} {}", difference(this, that)?)))
        }
        (Value::Object(these), Value::Object(those)) if these.keys().eq(those.keys()) => {
            let pairs = these.iter().zip(those.values());
            pairs
                .into_iter()
                .find_map(|((name, this), that)| Some(format!("{name} {}", difference(this, that)?)))
        }
        (this, that) => (this != that).then(|| format!("{this} is {that}")),
    }
}

fn parse(answer: &Answer) -> Result<Value, String> {
    serde_json::from_slice(&answer.body)
        .map_err(|cause| format!("not JSON ({cause}): {}", String::from_utf8_lossy(&answer.body)))
}
