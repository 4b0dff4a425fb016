//! String templates (protocol page 01 §5.4).

use std::io;

use components::{Error, Result, State, Value};
use handlebars::Handlebars;

use super::{Call, Interpreter};

/// The longest template, in bytes.
const TEMPLATE_BYTES_MAX: usize = 64 << 10;

/// The longest result of a template, in bytes.
const RENDERED_BYTES_MAX: usize = 4 << 20;

/// The most blocks and sub-expressions of a template: its parser and renderer recurse.
const TEMPLATE_NESTING_MAX: usize = 64;

/// The most iterations of nested loops in a template: nothing else would stop them.
const TEMPLATE_ITERATIONS_MAX: u128 = 100_000;

/// As many items of a step as an iteration or part of a template takes time.
const ITEMS_PER_ITERATION: usize = 16;

impl Interpreter {
    /// Render a string as a Handlebars template.
    ///
    /// # Errors
    /// 400 if the template or its data cannot be rendered.
    pub(super) async fn render(&self, template: &str, call: Call) -> Result<State> {
        let data = match call.or_post() {
            Call::Post(parameters) => {
                self.step_through(&State::Map(parameters.clone())).await;
                let mut data = serde_json::Map::new();
                for (name, state) in parameters.iter() {
                    data.insert(name.to_string(), template_data(state)?);
                }
                serde_json::Value::Object(data)
            }
            Call::Get(key) => {
                self.step_through(&key).await;
                match components::cast::pairs(&key) {
                    Some(pairs) if !key.is_none() => {
                        let mut data = serde_json::Map::new();
                        for (name, state) in pairs? {
                            data.insert(name.to_string(), template_data(&state)?);
                        }
                        serde_json::Value::Object(data)
                    }
                    _ => template_data(&key)?,
                }
            }
            call => return Err(call.not_allowed("render")),
        };
        let iterations = check(template, &data)?;
        let parts = template.matches("{{").count();
        self.step(iterations.saturating_mul(1 + parts).saturating_mul(ITEMS_PER_ITERATION)).await;
        let mut rendered = Bounded(Vec::new());
        Handlebars::new()
            .render_template_to_write(template, &data, &mut rendered)
            .map_err(|cause| Error::bad_request(format_args!("cannot render the template: {cause}")))?;
        String::from_utf8(rendered.0)
            .map(State::string)
            .map_err(|_| Error::internal("a template rendered to something other than text"))
    }
}

/// Refuse what the template engine would not come back from, and say how often its loops run at most.
fn check(template: &str, data: &serde_json::Value) -> Result<usize> {
    if template.len() > TEMPLATE_BYTES_MAX {
        return Err(Error::bad_request(format_args!("a template has at most {TEMPLATE_BYTES_MAX} bytes")));
    }
    let count = |text: &str| template.matches(text).count();
    if count("{{>") + count("{{#>") + count("{{#*") + count("{{*") + count("{{~>") + count("{{~#") > 0 {
        return Err(Error::bad_request("partials and decorators are not supported in templates"));
    }
    if count("{{#").max(count("{{^")).max(count("(")) > TEMPLATE_NESTING_MAX {
        return Err(Error::bad_request(format_args!(
            "a template has at most {TEMPLATE_NESTING_MAX} blocks or sub-expressions"
        )));
    }
    // At worst every block loops over the longest list, each inside the one before.
    let blocks = u32::try_from(count("{{#")).unwrap_or(u32::MAX);
    let iterations = (longest(data) as u128).max(1).checked_pow(blocks);
    match iterations {
        Some(iterations) if iterations <= TEMPLATE_ITERATIONS_MAX => Ok(iterations as usize),
        _ => Err(Error::bad_request("the loops of this template may run too often over this data")),
    }
}

fn longest(data: &serde_json::Value) -> usize {
    match data {
        serde_json::Value::Array(items) => items.len().max(items.iter().map(longest).max().unwrap_or(0)),
        serde_json::Value::Object(items) => items.len().max(items.values().map(longest).max().unwrap_or(0)),
        _ => 0,
    }
}

fn template_data(state: &State) -> Result<serde_json::Value> {
    let value = state
        .to_value()
        .ok_or_else(|| Error::bad_request(format_args!("a {} cannot be rendered", state.class().path())))?;
    Ok(value_data(&value))
}

fn value_data(value: &Value) -> serde_json::Value {
    match value {
        Value::None => serde_json::Value::Null,
        Value::Number(number) => {
            serde_json::to_value(number).unwrap_or_else(|_| serde_json::Value::String(number.to_string()))
        }
        Value::Bytes(_) => serde_json::to_value(value).expect("base64 text"),
        Value::Id(_) | Value::String(_) | Value::Link(_) => serde_json::Value::String(value.to_string()),
        Value::Tuple(items) => serde_json::Value::Array(items.iter().map(value_data).collect()),
    }
}

/// Text of bounded length.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > RENDERED_BYTES_MAX {
            return Err(io::Error::other(format!("the result has more than {RENDERED_BYTES_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
