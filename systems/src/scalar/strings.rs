//! String templates (protocol page 01 §5.4): `{{x}}`, `{{{x}}}`, `{{#if x}}` and `{{#each x}}`, and nothing else.
//!
//! A template becomes a list of instructions without nesting, so that what renders it can stop after any of them: a program
//! yields in the middle of a loop like everywhere else.

use components::{Error, Result, State, Value};
use serde_json::Value as Json;

use super::{Call, Interpreter};

/// The longest template, in bytes.
const TEMPLATE_BYTES_MAX: usize = 64 << 10;

/// The longest result of a template, in bytes.
const RENDERED_BYTES_MAX: usize = 4 << 20;

/// How deep the blocks of a template nest at most.
const TEMPLATE_NESTING_MAX: usize = 64;

/// How many instructions of a template are done for a unit of fuel.
const INSTRUCTIONS_PER_FUEL: usize = 4;

impl Interpreter {
    /// Render a string as a template.
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
                Json::Object(data)
            }
            Call::Get(key) => {
                self.step_through(&key).await;
                match components::language::cast::pairs(&key) {
                    Some(pairs) if !key.is_none() => {
                        let mut data = serde_json::Map::new();
                        for (name, state) in pairs? {
                            data.insert(name.to_string(), template_data(&state)?);
                        }
                        Json::Object(data)
                    }
                    _ => template_data(&key)?,
                }
            }
            call => return Err(call.not_allowed("render")),
        };
        if template.len() > TEMPLATE_BYTES_MAX {
            return Err(Error::bad_request(format_args!(
                "a template has at most {TEMPLATE_BYTES_MAX} bytes"
            )));
        }
        self.step(template.len()).await;
        let instructions = compile(template)?;
        let mut rendering = Rendering::new(&instructions, &data);
        while !rendering.go_on(INSTRUCTIONS_PER_FUEL)? {
            self.step(0).await;
        }
        Ok(State::string(rendering.text))
    }
}

fn template_data(state: &State) -> Result<Json> {
    let value = state
        .to_value()
        .ok_or_else(|| Error::bad_request(format_args!("a {} cannot be rendered", state.class().path())))?;
    Ok(value_data(&value))
}

fn value_data(value: &Value) -> Json {
    match value {
        Value::None => Json::Null,
        Value::Number(number) => {
            serde_json::to_value(number).unwrap_or_else(|_| Json::String(number.to_string()))
        }
        Value::Bytes(_) => serde_json::to_value(value).expect("base64 text"),
        Value::Id(_) | Value::String(_) | Value::Link(_) => Json::String(value.to_string()),
        Value::Tuple(items) => Json::Array(items.iter().map(value_data).collect()),
    }
}

/// Where in the data something is.
#[derive(Debug, Eq, PartialEq)]
struct Place<'t> {
    /// From which context: so many loops further out, or the outermost.
    from: Origin,
    keys: Vec<&'t str>,
}

#[derive(Debug, Eq, PartialEq)]
enum Origin {
    Loop(usize),
    Root,
    /// What is known of the innermost loop itself: `@index`, `@key`, `@first`, `@last`.
    Local,
}

/// A step of rendering. Targets are positions among the instructions.
#[derive(Debug, Eq, PartialEq)]
enum Instruction<'t> {
    Text(&'t str),
    Show {
        place: Place<'t>,
        is_escaped: bool,
    },
    GoTo(usize),
    GoUnless(Place<'t>, usize),
    /// Begin a loop, or go on there if there is nothing to loop over.
    Each(Place<'t>, usize),
    /// Go on there with the next item, if there is one.
    Next(usize),
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::bad_request(format_args!("cannot render the template: {why}"))
}

impl<'t> Place<'t> {
    fn parse(text: &'t str) -> Result<Self> {
        let not_a_name = || malformed(format_args!("{text:?} is not the name of a value"));
        let mut place = Self { from: Origin::Loop(0), keys: Vec::new() };
        let mut rest = text;
        if let Some(after) = rest.strip_prefix("@root") {
            place.from = Origin::Root;
            match after.strip_prefix(['.', '/']) {
                Some(after) => rest = after,
                None if after.is_empty() => return Ok(place),
                None => return Err(not_a_name()),
            }
        } else if let Some(after) = rest.strip_prefix('@') {
            return match after {
                "index" | "key" | "first" | "last" => Ok(Self { from: Origin::Local, keys: vec![after] }),
                _ => Err(not_a_name()),
            };
        } else if matches!(rest, "." | "this" | "./" | "this.") {
            return Ok(place);
        } else if let Some(after) = ["./", "this.", "this/"].iter().find_map(|start| rest.strip_prefix(start))
        {
            rest = after;
        }
        let mut levels = 0;
        while let Some(after) = rest.strip_prefix("..") {
            levels += 1;
            match after.strip_prefix('/') {
                Some(after) => rest = after,
                None if after.is_empty() => rest = after,
                None => return Err(not_a_name()),
            }
        }
        if levels > 0 {
            place.from = Origin::Loop(levels);
            if rest.is_empty() || rest == "this" {
                return Ok(place);
            }
        }
        loop {
            let (key, after) = match rest.strip_prefix('[') {
                Some(inner) => inner.split_once(']').ok_or_else(not_a_name)?,
                None => rest.split_at(rest.find(['.', '/', '[']).unwrap_or(rest.len())),
            };
            let is_name = |c: char| c.is_alphanumeric() || "-_$:".contains(c);
            if key.is_empty() || !rest.starts_with('[') && !key.chars().all(is_name) {
                return Err(not_a_name());
            }
            place.keys.push(key);
            match after.strip_prefix(['.', '/']) {
                Some(after) => rest = after,
                None if after.is_empty() => return Ok(place),
                None => return Err(not_a_name()),
            }
        }
    }
}

/// Whether a block waits for its `{{else}}`, and what its end has to tell where it is.
struct Block {
    is_each: bool,
    /// The instruction that goes to what comes after the first part.
    first: usize,
    /// That at the end of the first part, if there is a second.
    second: Option<usize>,
}

/// The instructions of a template.
///
/// # Errors
/// 400 that says what is wrong with it.
fn compile(template: &str) -> Result<Vec<Instruction<'_>>> {
    let mut instructions = Vec::new();
    let mut blocks: Vec<Block> = Vec::new();
    let mut rest = template;
    // Whether white space is left out that comes next.
    let mut is_trimming = false;
    // Whether a line begins with what comes next, but for blanks.
    let mut begins_line = true;
    while !rest.is_empty() {
        let Some(open) = rest.find("{{") else {
            push_text(&mut instructions, if is_trimming { rest.trim_start() } else { rest });
            break;
        };
        let (text, after) = rest.split_at(open);
        // `\{{` is a text of two braces, `\\{{` a backslash before a value.
        let text = match text.len() - text.trim_end_matches('\\').len() {
            0 => text,
            1 => {
                let text = &text[..text.len() - 1];
                push_text(&mut instructions, if is_trimming { text.trim_start() } else { text });
                push_text(&mut instructions, &after[..2]);
                rest = &after[2..];
                (is_trimming, begins_line) = (false, false);
                continue;
            }
            _ => &text[..text.len() - 1],
        };
        let tag = Tag::parse(after)?;
        rest = tag.rest;
        let mut text = if is_trimming { text.trim_start() } else { text };
        let line = text.rfind('\n').map_or(text, |at| &text[at + 1..]);
        let is_first = line.trim_matches([' ', '\t']).is_empty() && (begins_line || line.len() < text.len());
        // A line that has nothing but a block or comment in it leaves no trace.
        let is_alone = tag.leaves_no_trace() && is_first && {
            let blank = rest.trim_start_matches([' ', '\t']);
            blank.is_empty() || blank.starts_with('\n') || blank.starts_with("\r\n")
        };
        if is_alone {
            text = &text[..text.len() - line.len()];
            rest = rest.trim_start_matches([' ', '\t']);
            rest = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n')).unwrap_or(rest);
        }
        if tag.trims_before {
            text = text.trim_end();
        }
        push_text(&mut instructions, text);
        (is_trimming, begins_line) = (tag.trims_after, is_alone);
        add(tag.content, &mut instructions, &mut blocks)?;
    }
    match blocks.last() {
        None => Ok(instructions),
        Some(block) => {
            let name = if block.is_each { "each" } else { "if" };
            Err(malformed(format_args!("a block {{{{#{name}}}}} does not end")))
        }
    }
}

/// Add what a tag says to the instructions, and to the blocks that are open.
fn add<'t>(
    content: Content<'t>,
    instructions: &mut Vec<Instruction<'t>>,
    blocks: &mut Vec<Block>,
) -> Result<()> {
    match content {
        Content::Comment => {}
        Content::Show { name, is_escaped } => {
            let place = Place::parse(name)?;
            instructions.push(Instruction::Show { place, is_escaped });
        }
        Content::Begin { is_each, name } => {
            if blocks.len() >= TEMPLATE_NESTING_MAX {
                return Err(malformed(format_args!(
                    "blocks nest at most {TEMPLATE_NESTING_MAX} levels deep"
                )));
            }
            blocks.push(Block { is_each, first: instructions.len(), second: None });
            let place = Place::parse(name)?;
            instructions.push(match is_each {
                true => Instruction::Each(place, 0),
                false => Instruction::GoUnless(place, 0),
            });
        }
        Content::Else => {
            let block = blocks.last_mut().filter(|block| block.second.is_none());
            let block = block.ok_or_else(|| malformed("an {{else}} that is in no block, or the second"))?;
            if block.is_each {
                instructions.push(Instruction::Next(block.first + 1));
            }
            block.second = Some(instructions.len());
            instructions.push(Instruction::GoTo(0));
            go_on_at(instructions, block.first);
        }
        Content::End { is_each } => {
            let block = blocks.pop().filter(|block| block.is_each == is_each);
            let block = block.ok_or_else(|| malformed("the end of a block that has not begun"))?;
            match block.second {
                Some(second) => go_on_at(instructions, second),
                None => {
                    if is_each {
                        instructions.push(Instruction::Next(block.first + 1));
                    }
                    go_on_at(instructions, block.first);
                }
            }
        }
    }
    Ok(())
}

fn push_text<'t>(instructions: &mut Vec<Instruction<'t>>, text: &'t str) {
    if !text.is_empty() {
        instructions.push(Instruction::Text(text));
    }
}

/// Let an instruction go to what comes next.
fn go_on_at(instructions: &mut [Instruction<'_>], from: usize) {
    let next = instructions.len();
    match &mut instructions[from] {
        Instruction::GoTo(target) | Instruction::GoUnless(_, target) | Instruction::Each(_, target) => {
            *target = next
        }
        _ => unreachable!("only these go somewhere that is not known at once"),
    }
}

/// What is between braces.
struct Tag<'t> {
    content: Content<'t>,
    trims_before: bool,
    trims_after: bool,
    rest: &'t str,
}

enum Content<'t> {
    Comment,
    Show { name: &'t str, is_escaped: bool },
    Begin { is_each: bool, name: &'t str },
    Else,
    End { is_each: bool },
}

impl<'t> Tag<'t> {
    /// The tag that a text begins with.
    fn parse(text: &'t str) -> Result<Self> {
        let shown = || text.chars().take(20).collect::<String>();
        let unended = || malformed(format_args!("{:?} does not end", shown()));
        if let Some(comment) = text.strip_prefix("{{!--") {
            let (_, rest) = comment.split_once("--}}").ok_or_else(unended)?;
            return Ok(Self::plain(Content::Comment, rest));
        }
        if let Some(comment) = text.strip_prefix("{{!") {
            let (_, rest) = comment.split_once("}}").ok_or_else(unended)?;
            return Ok(Self::plain(Content::Comment, rest));
        }
        if text.starts_with("{{{{") {
            return Err(malformed("raw blocks are not supported"));
        }
        if let Some(raw) = text.strip_prefix("{{{") {
            let (name, rest) = raw.split_once("}}}").ok_or_else(unended)?;
            let (name, trims_before, trims_after) = trimming(name);
            let content = Content::Show { name: one_word(name)?, is_escaped: false };
            return Ok(Self { trims_before, trims_after, ..Self::plain(content, rest) });
        }
        let (inner, rest) = text[2..].split_once("}}").ok_or_else(unended)?;
        let (inner, trims_before, trims_after) = trimming(inner);
        let block = |name: &str| match name {
            "if" => Ok(false),
            "each" => Ok(true),
            _ => {
                Err(malformed(format_args!("there is no block {name:?}, but {{{{#if}}}} and {{{{#each}}}}")))
            }
        };
        let content = if inner == "else" || inner == "^" {
            Content::Else
        } else if let Some(begin) = inner.strip_prefix('#') {
            let begin = begin.trim();
            let (name, of) = begin.split_once(char::is_whitespace).unwrap_or((begin, ""));
            Content::Begin { is_each: block(name)?, name: one_word(of.trim())? }
        } else if let Some(end) = inner.strip_prefix('/') {
            Content::End { is_each: block(end.trim())? }
        } else if let Some(raw) = inner.strip_prefix('&') {
            Content::Show { name: one_word(raw.trim())?, is_escaped: false }
        } else {
            Content::Show { name: one_word(inner)?, is_escaped: true }
        };
        Ok(Self { trims_before, trims_after, ..Self::plain(content, rest) })
    }

    fn plain(content: Content<'t>, rest: &'t str) -> Self {
        Self { content, trims_before: false, trims_after: false, rest }
    }

    fn leaves_no_trace(&self) -> bool {
        !matches!(self.content, Content::Show { .. })
    }
}

/// What is between braces without the marks that leave out white space around it, and whether there were any.
fn trimming(inner: &str) -> (&str, bool, bool) {
    let (inner, before) = inner.strip_prefix('~').map_or((inner, false), |inner| (inner, true));
    let (inner, after) = inner.strip_suffix('~').map_or((inner, false), |inner| (inner, true));
    (inner.trim(), before, after)
}

fn one_word(name: &str) -> Result<&str> {
    let outside = name.split('[').flat_map(|part| part.rsplit(']').next());
    if name.is_empty() || outside.into_iter().any(|part| part.contains(char::is_whitespace)) {
        return Err(malformed(format_args!(
            "{name:?} is not the name of a value, and there are no helpers but {{{{#if}}}} and {{{{#each}}}}"
        )));
    }
    Ok(name)
}

/// A loop that is under way.
struct Loop<'d> {
    items: Items<'d>,
    index: usize,
    current: &'d Json,
}

enum Items<'d> {
    List(&'d [Json]),
    Object(Vec<(&'d String, &'d Json)>),
}

impl<'d> Items<'d> {
    fn of(data: Option<&'d Json>) -> Option<Self> {
        match data? {
            Json::Array(items) if !items.is_empty() => Some(Self::List(items)),
            Json::Object(items) if !items.is_empty() => Some(Self::Object(items.iter().collect())),
            _ => None,
        }
    }

    fn get(&self, index: usize) -> Option<&'d Json> {
        match self {
            Self::List(items) => items.get(index),
            Self::Object(items) => items.get(index).map(|(_, item)| *item),
        }
    }
}

/// A template that is being rendered.
struct Rendering<'d> {
    instructions: &'d [Instruction<'d>],
    data: &'d Json,
    next: usize,
    loops: Vec<Loop<'d>>,
    text: String,
}

impl<'d> Rendering<'d> {
    fn new(instructions: &'d [Instruction<'d>], data: &'d Json) -> Self {
        Self { instructions, data, next: 0, loops: Vec::new(), text: String::new() }
    }

    /// Do so many instructions; whether that was all.
    ///
    /// # Errors
    /// 400 if the result is too long.
    fn go_on(&mut self, count: usize) -> Result<bool> {
        for _ in 0..count {
            let Some(instruction) = self.instructions.get(self.next) else { return Ok(true) };
            self.next += 1;
            match instruction {
                Instruction::Text(text) => self.write(text)?,
                Instruction::Show { place: Place { from: Origin::Local, keys }, .. } => {
                    let shown = self.local(keys[0]);
                    self.write(&shown)?;
                }
                Instruction::Show { place, is_escaped } => {
                    let shown = self.find(place).map(show).unwrap_or_default();
                    match is_escaped {
                        true => self.write(&escape(&shown))?,
                        false => self.write(&shown)?,
                    }
                }
                Instruction::GoTo(target) => self.next = *target,
                Instruction::GoUnless(place, target) => {
                    let is_true = match place {
                        Place { from: Origin::Local, keys } => {
                            !matches!(&*self.local(keys[0]), "" | "0" | "false")
                        }
                        place => self.find(place).is_some_and(is_true),
                    };
                    if !is_true {
                        self.next = *target;
                    }
                }
                Instruction::Each(place, target) => match Items::of(self.find(place)) {
                    Some(items) => {
                        let current = items.get(0).expect("an item");
                        self.loops.push(Loop { items, index: 0, current });
                    }
                    None => self.next = *target,
                },
                Instruction::Next(target) => {
                    let innermost = self.loops.last_mut().expect("a loop");
                    innermost.index += 1;
                    match innermost.items.get(innermost.index) {
                        Some(item) => {
                            innermost.current = item;
                            self.next = *target;
                        }
                        None => {
                            self.loops.pop();
                        }
                    }
                }
            }
        }
        Ok(self.next >= self.instructions.len())
    }

    fn write(&mut self, text: &str) -> Result<()> {
        if self.text.len() + text.len() > RENDERED_BYTES_MAX {
            return Err(malformed(format_args!("the result has more than {RENDERED_BYTES_MAX} bytes")));
        }
        self.text.push_str(text);
        Ok(())
    }

    fn find(&self, place: &Place) -> Option<&'d Json> {
        let from = match place.from {
            Origin::Root => self.data,
            Origin::Local => return None,
            // Further out than the outermost there is nothing else.
            Origin::Loop(levels) if levels >= self.loops.len() => self.data,
            Origin::Loop(levels) => self.loops.iter().rev().nth(levels)?.current,
        };
        place.keys.iter().try_fold(from, |data, key| match data {
            Json::Object(items) => items.get(*key),
            Json::Array(items) => items.get(key.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// What is known of the innermost loop itself.
    fn local(&self, name: &str) -> String {
        let Some(Loop { items, index, .. }) = self.loops.last() else { return String::new() };
        match (name, items) {
            ("key", Items::Object(items)) => items[*index].0.clone(),
            ("index" | "key", _) => index.to_string(),
            ("first", _) => (*index == 0).to_string(),
            _ => items.get(index + 1).is_none().to_string(),
        }
    }
}

fn is_true(data: &Json) -> bool {
    match data {
        Json::Null => false,
        Json::Bool(flag) => *flag,
        Json::Number(number) => number.as_f64().is_some_and(|number| number != 0.0),
        Json::String(text) => !text.is_empty(),
        Json::Array(items) => !items.is_empty(),
        Json::Object(items) => !items.is_empty(),
    }
}

fn show(data: &Json) -> String {
    match data {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(show).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(_) => "[object]".to_string(),
        other => other.to_string(),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#x27;"),
            '`' => escaped.push_str("&#x60;"),
            '=' => escaped.push_str("&#x3D;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use handlebars::Handlebars;
    use proptest::prelude::*;
    use serde_json::json;

    fn render(template: &str, data: &Json) -> Result<String> {
        let instructions = compile(template)?;
        let mut rendering = Rendering::new(&instructions, data);
        while !rendering.go_on(1)? {}
        Ok(rendering.text)
    }

    fn data() -> Json {
        json!({"a": "x<y>&\"'`=", "n": 5, "z": 0, "f": 1.5, "t": true, "e": [], "s": "", "none": null,
               "l": [1, "two", [3, 4], null, true], "m": [["k", "v"], ["w", "u"]]})
    }

    #[test]
    fn the_language_of_the_protocol_page() {
        for (template, expected) in [
            ("Hi {{n}}", "Hi 5"),
            ("{{a}}|{{{a}}}|{{&a}}", "x&lt;y&gt;&amp;&quot;&#x27;&#x60;&#x3D;|x<y>&\"'`=|x<y>&\"'`="),
            ("{{missing}}{{n.x}}{{l.[9]}}{{none}}", ""),
            ("{{l.[1]}} {{l.1}} {{l.[2].[0]}}", "two two 3"),
            ("{{#if t}}yes{{else}}no{{/if}} {{#if z}}yes{{else}}no{{/if}} {{#if e}}yes{{/if}}", "yes no "),
            ("{{#each l}}{{@index}}={{this}};{{/each}}", "0=1;1=two;2=[3, 4];3=;4=true;"),
            ("{{#each e}}x{{else}}none{{/each}}", "none"),
            ("{{#each m}}{{#each this}}{{this}}{{../[1]}}{{../../n}} {{/each}}{{/each}}", "kv5 vv5 wu5 uu5 "),
            ("{{#each l}}{{#if @last}}{{@root.n}}{{/if}}{{#if @first}}1st {{/if}}{{/each}}", "1st 5"),
            ("a{{! no }}b{{!-- {{n}} --}}c", "abc"),
            ("a  {{~n~}}  b", "a5b"),
            ("{{#each m}}\n  {{this.[0]}}\n{{/each}}\nend", "  k\n  w\nend"),
            ("{ {{n}} } }}", "{ 5 } }}"),
        ] {
            assert_eq!(render(template, &data()).as_deref(), Ok(expected), "{template}");
        }
        assert_eq!(render("{{this}} {{.}}", &json!(7)).as_deref(), Ok("7 7"));
    }

    #[test]
    fn what_the_language_does_not_have_is_refused() {
        for template in [
            "{{log n}}",
            "{{log \"x\"}}",
            "{{#log}}{{/log}}",
            "{{lookup l 1}}",
            "{{#with n}}{{/with}}",
            "{{#unless n}}{{/unless}}",
            "{{> part}}",
            "{{ > part}}",
            "{{#> part}}{{/part}}",
            "{{#*inline \"x\"}}{{/inline}}",
            "{{* x}}",
            "{{eq 1 1}}",
            "{{#if (eq n 5)}}{{/if}}",
            "{{{{raw}}}}{{{{/raw}}}}",
            "{{#if}}{{/if}}",
            "{{#if n}}",
            "{{/if}}",
            "{{else}}",
            "{{n",
            "{{}}",
            "{{#each l}}{{/if}}",
            "{{#if n}}{{else}}{{else}}{{/if}}",
            "{{#each l as |x|}}{{/each}}",
            "{{len l}}",
            "{{@level}}",
            "{{!-- x",
            "{{{n}}",
            "{{raw n}}",
            "{{#if n}}{{else if z}}{{/if}}",
        ] {
            assert!(render(template, &data()).is_err(), "{template}");
        }
    }

    #[test]
    fn what_is_rendered_is_bounded() {
        let deep = "{{#if n}}".repeat(TEMPLATE_NESTING_MAX + 1) + &"{{/if}}".repeat(TEMPLATE_NESTING_MAX + 1);
        assert!(render(&deep, &data()).is_err());
        let long = json!({"l": vec!["x".repeat(1000); 5000]});
        assert!(render("{{#each l}}{{this}}{{/each}}", &long).unwrap_err().message().contains("bytes"));
    }

    fn template() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec![
            "a",
            "n",
            "z",
            "f",
            "t",
            "e",
            "s",
            "none",
            "l",
            "m",
            "this",
            "l.[1]",
            "m.[0].[1]",
            "missing",
            "a.b",
            "@root.n",
            "../n",
        ]);
        let text = prop::sample::select(vec!["x", " ", "\n", "  \n", "{", "}", "é", "\n \n"])
            .prop_map(str::to_string);
        let show = (name.clone(), 0..4_u8).prop_map(|(name, form)| match form {
            0 => format!("{{{{{{{name}}}}}}}"),
            1 => format!("{{{{ {name} }}}}"),
            2 => format!("{{{{~{name}~}}}}"),
            _ => format!("{{{{{name}}}}}"),
        });
        let leaf = prop_oneof![text, show];
        leaf.prop_recursive(3, 12, 4, move |inner| {
            let parts = prop::collection::vec(inner, 0..4).prop_map(|parts| parts.concat());
            (parts.clone(), prop::option::of(parts), name.clone(), any::<bool>()).prop_map(
                |(then, or_else, name, is_each)| {
                    let block = if is_each { "each" } else { "if" };
                    let or_else = or_else.map(|part| format!("{{{{else}}}}{part}")).unwrap_or_default();
                    format!("{{{{#{block} {name}}}}}{then}{or_else}{{{{/{block}}}}}")
                },
            )
        })
    }

    proptest! {
        /// Without line ends, where the two leave out lines by rules of their own, and without places further out than
        /// the outermost, which handlebars takes for parts of a path.
        #[test]
        fn it_is_what_handlebars_makes_of_it(parts in prop::collection::vec(template(), 0..5)) {
            let template = format!("-{}-", parts.concat().replace('\n', "-"));
            let expected = Handlebars::new().render_template(&template, &data());
            if let Ok(expected) = expected {
                prop_assert_eq!(render(&template, &data()).unwrap(), expected);
            }
        }

        #[test]
        fn any_text_is_rendered_or_refused(text in "[{}#/~ineachf .@\\[\\]1\\\\!&\n-]{0,60}") {
            let _ = render(&text, &data());
        }
    }
}
