//! Which module of a crate names which other, by its source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, Meta, UseTree};

/// One module names another.
#[derive(Clone, Debug)]
pub struct Reference {
    /// The file, and the line.
    pub path: String,
    pub line: usize,
    /// The module that names, and the one that is named, as paths in the crate; the root is empty.
    pub from: String,
    pub to: String,
    /// Whether only tests do.
    pub is_test: bool,
}

/// The source of a crate.
pub struct Crate {
    rooms: &'static [&'static str],
    folders: Vec<&'static str>,
    /// The modules that have files of their own, with their rooms before them.
    modules: BTreeSet<String>,
    references: Vec<Reference>,
}

impl Crate {
    /// A crate of this workspace.
    pub fn read(name: &str) -> Self {
        let texts = sources(name);
        let texts: Vec<(&str, &str)> = texts.iter().map(|(path, text)| (&**path, &**text)).collect();
        Self::of(name, &texts)
    }

    /// A crate of these files.
    pub fn of(name: &str, files: &[(&str, &str)]) -> Self {
        let module = |path: &str| match path.trim_end_matches(".rs") {
            "lib" => String::new(),
            path => path.replace('/', "::"),
        };
        let modules: BTreeSet<String> = files.iter().map(|(path, _)| module(path)).collect();
        let parsed: Vec<(&str, String, syn::File)> = files
            .iter()
            .map(|(path, text)| {
                (*path, module(path), syn::parse_file(text).unwrap_or_else(|e| panic!("{path}: {e}")))
            })
            .collect();
        // What the root shows under another name is where it is made.
        let root = parsed.iter().find(|(_, module, _)| module.is_empty()).expect("a root");
        let mut shown = BTreeMap::new();
        for item in &root.2.items {
            if let Item::Use(one) = item {
                leaves(&one.tree, &mut Vec::new(), &mut |leaf, _| {
                    shown.insert(leaf.last().expect("a name").clone(), leaf.to_vec());
                });
            }
        }
        let mut references = Vec::new();
        for (path, module, file) in &parsed {
            let mut reader = Reader {
                path: format!("{name}/src/{path}"),
                module: segments(module),
                inner: 0,
                // A file of tests is all tests.
                tests: usize::from(module.ends_with("tests")),
                modules: &modules,
                shown: &shown,
                references: &mut references,
            };
            reader.visit_file(file);
        }
        let rooms = crate::ROOMS.iter().find(|(other, _)| *other == name).map_or(&[][..], |(_, rooms)| rooms);
        let folders =
            crate::FOLDERS.iter().filter(|(other, _)| *other == name).map(|(_, folder)| *folder).collect();
        Self { rooms, folders, modules, references }
    }

    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// The file of a module: the outermost module that is no room, of those it lies in.
    pub fn file(&self, module: &str) -> String {
        let segments = segments(module);
        let is_folder = segments
            .first()
            .is_some_and(|first| self.rooms.contains(&&**first) || self.folders.contains(&&**first));
        let len = if is_folder { 2 } else { 1 };
        let file = segments[..segments.len().min(len)].join("::");
        assert!(self.modules.contains(&file), "{file} has a file");
        file
    }
}

/// The files of a crate of this workspace, below its `src`, in order, with their texts.
pub fn sources(name: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(name).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files.sort();
    let text = |path: &PathBuf| {
        let text = fs::read_to_string(path).expect("a source file");
        (path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned(), text)
    };
    files.iter().map(text).collect()
}

/// The functions of a file, tests left out: where each begins, and how many lines it has.
pub fn functions(path: &str, text: &str) -> Vec<(usize, usize)> {
    struct Functions(Vec<(usize, usize)>);

    impl Functions {
        fn note(&mut self, signature: &syn::Signature, block: &syn::Block) {
            let (first, last) =
                (signature.fn_token.span.start().line, block.brace_token.span.close().end().line);
            self.0.push((first, last + 1 - first));
        }
    }

    impl Visit<'_> for Functions {
        fn visit_item_fn(&mut self, function: &syn::ItemFn) {
            self.note(&function.sig, &function.block);
            visit::visit_item_fn(self, function);
        }

        fn visit_impl_item_fn(&mut self, function: &syn::ImplItemFn) {
            self.note(&function.sig, &function.block);
            visit::visit_impl_item_fn(self, function);
        }

        fn visit_item_mod(&mut self, module: &ItemMod) {
            if !Reader::is_for_tests(&module.attrs) {
                visit::visit_item_mod(self, module);
            }
        }
    }

    let mut functions = Functions(Vec::new());
    // A file of tests is all tests.
    if !path.ends_with("tests.rs") {
        functions.visit_file(&syn::parse_file(text).unwrap_or_else(|e| panic!("{path}: {e}")));
    }
    functions.0
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn segments(module: &str) -> Vec<String> {
    module.split("::").filter(|segment| !segment.is_empty()).map(ToString::to_string).collect()
}

/// Call `visit` with every path that a use tree names.
fn leaves(tree: &UseTree, before: &mut Vec<String>, visit: &mut impl FnMut(&[String], Span)) {
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            leaves(&path.tree, before, visit);
            before.pop();
        }
        UseTree::Name(name) => one(&name.ident, before, visit),
        UseTree::Rename(name) => one(&name.ident, before, visit),
        UseTree::Glob(glob) => visit(before, glob.star_token.spans[0]),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, before, visit)),
    }
}

fn one(ident: &syn::Ident, before: &mut Vec<String>, visit: &mut impl FnMut(&[String], Span)) {
    if ident == "self" {
        return visit(before, ident.span());
    }
    before.push(ident.to_string());
    visit(before, ident.span());
    before.pop();
}

struct Reader<'a> {
    path: String,
    module: Vec<String>,
    /// How many modules without a file of their own we are in.
    inner: usize,
    /// How many of what we are in is there for tests only.
    tests: usize,
    modules: &'a BTreeSet<String>,
    shown: &'a BTreeMap<String, Vec<String>>,
    references: &'a mut Vec<Reference>,
}

impl Reader<'_> {
    fn name(&mut self, path: &[String], span: Span) {
        let mut rest = path;
        let mut target = match rest.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self") => self.module.clone(),
            Some("super") => {
                let mut levels = 0;
                while rest.get(levels).is_some_and(|segment| segment == "super") {
                    levels += 1;
                }
                rest = &rest[levels - 1..];
                let up = levels.saturating_sub(self.inner);
                self.module[..self.module.len().saturating_sub(up)].to_vec()
            }
            // A module inside this one.
            Some(first) if self.inner == 0 && self.modules.contains(&self.joined(first)) => {
                return self.refer(self.module.iter().cloned().chain(path.iter().cloned()).collect(), span);
            }
            _ => return,
        };
        target.extend(rest[1..].iter().cloned());
        if let [name, ..] = &*target
            && !self.modules.contains(name)
            && let Some(made) = self.shown.get(name)
        {
            target = made.clone();
        }
        self.refer(target, span);
    }

    fn joined(&self, segment: &str) -> String {
        self.module.iter().map(String::as_str).chain([segment]).collect::<Vec<_>>().join("::")
    }

    fn refer(&mut self, target: Vec<String>, span: Span) {
        let len = (0..=target.len()).rev().find(|len| self.modules.contains(&target[..*len].join("::")));
        let to = target[..len.unwrap_or(0)].join("::");
        let from = self.module.join("::");
        // A module may name its own things, and the root of the crate is everybody's.
        if to == from || to.is_empty() {
            return;
        }
        let (path, line) = (self.path.clone(), span.start().line);
        self.references.push(Reference { path, line, from, to, is_test: self.tests > 0 });
    }

    /// Paths in what macros are called with.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut start = None;
        let mut is_after_colon = false;
        for token in tokens {
            match &token {
                TokenTree::Ident(ident) => {
                    if !is_after_colon {
                        self.end_path(&mut path, &mut start);
                    }
                    start.get_or_insert(ident.span());
                    path.push(ident.to_string());
                    is_after_colon = false;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => is_after_colon = true,
                _ => {
                    self.end_path(&mut path, &mut start);
                    is_after_colon = false;
                    if let TokenTree::Group(group) = &token {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.end_path(&mut path, &mut start);
    }

    fn end_path(&mut self, path: &mut Vec<String>, start: &mut Option<Span>) {
        if let Some(start) = start.take()
            && path.len() > 1
        {
            self.name(path, start);
        }
        path.clear();
    }

    fn is_for_tests(attributes: &[Attribute]) -> bool {
        attributes.iter().any(|attribute| match &attribute.meta {
            Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
            _ => false,
        })
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &Vec::new(),
        };
        let is_for_tests = Self::is_for_tests(attributes);
        self.tests += usize::from(is_for_tests);
        visit::visit_item(self, item);
        self.tests -= usize::from(is_for_tests);
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if module.content.is_some() {
            self.inner += 1;
            visit::visit_item_mod(self, module);
            self.inner -= 1;
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        leaves(&item.tree, &mut Vec::new(), &mut |leaf, span| self.name(leaf, span));
    }

    // Who may see something is not what it knows.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if let Some(first) = path.segments.first().filter(|_| names.len() > 1) {
            self.name(&names, first.ident.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, one: &'ast syn::Macro) {
        self.tokens(one.tokens.clone());
        visit::visit_macro(self, one);
    }
}
