//! The rules of the house that the compiler does not hold: who may import whom, what only `sys` may call, how long a
//! file may be. ARCHITECTURE.md says why; the tables here say what.
//!
//! A failure names the file, the line and what to do. An exception goes into the table beside its rule, with its reason;
//! one that is not needed any more fails too, so the tables only shrink.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each layer with the layers that it may import, besides those in [`OPEN_TO_ALL`]. From the bottom up.
const LAYERS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("sys", &[]),
    ("telemetry", &[]),
    ("codec", &[]),
    ("log", &["codec"]),
    ("view", &["log", "codec"]),
    ("metadata", &["log"]),
    ("client", &["codec"]),
    ("replication", &["metadata", "client", "log", "codec"]),
    ("coordinator", &["replication", "log", "codec"]),
    ("engine", &["view", "coordinator", "replication", "metadata", "client", "log", "codec"]),
    ("peer", &["coordinator", "replication", "metadata", "codec"]),
    ("session", &["engine"]),
    ("kafka", &["engine", "codec"]),
    ("http", &["session", "engine"]),
    ("config", &[]),
    (
        "server",
        &[
            "http",
            "kafka",
            "peer",
            "session",
            "engine",
            "view",
            "coordinator",
            "replication",
            "metadata",
            "client",
            "log",
            "codec",
            "config",
        ],
    ),
    ("cli", &["server", "config", "metadata", "log", "codec", "http"]),
];

/// The vocabulary, metrics and the ports to the machine.
const OPEN_TO_ALL: &[&str] = &["types", "telemetry", "sys"];

/// Of those, what each may import itself.
const OPEN_LAYERS: &[(&str, &[&str])] = &[("types", &[]), ("sys", &["types", "telemetry"]), ("telemetry", &["types"])];

/// Imports against the table: file, layer, reason.
const IMPORT_EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// What only some files may name: path, files (by prefix) that may, and what to do instead.
const BANNED: &[(&str, &[&str], &str)] = &[
    ("std::fs", &["src/sys/"], "use sys::Disk, so that the simulation can lose what was not synced"),
    ("tokio::fs", &["src/sys/"], "use sys::Disk on a thread of sys::IoPool"),
    ("tokio::net", &["src/sys/"], "use sys::Network, so that the simulation can cut it"),
    ("std::net::TcpListener", &["src/sys/"], "use sys::Network"),
    ("std::net::TcpStream", &["src/sys/"], "use sys::Network"),
    ("std::net::UdpSocket", &["src/sys/"], "use sys::Network"),
    ("std::net::ToSocketAddrs", &["src/sys/"], "it asks the resolver and blocks; use sys::Network::connect"),
    ("socket2", &["src/sys/"], "use sys::Network"),
    ("rustix", &["src/sys/", "src/cli/", "src/main.rs"], "calls to the system belong to sys"),
    ("std::time::Instant", &["src/sys/"], "use sys::Clock::monotonic, or tokio::time for timers"),
    ("std::time::SystemTime", &["src/sys/"], "use sys::Clock::now_ms"),
    ("std::time::UNIX_EPOCH", &["src/sys/"], "use sys::Clock::now_ms"),
    ("rand", &["src/sys/"], "use sys::Rng, so that a seed decides"),
    (
        "std::thread",
        &["src/sys/", "src/cli/", "src/main.rs"],
        "use sys::IoPool, so that the simulation picks the order",
    ),
    ("tokio::task::spawn_blocking", &["src/sys/"], "use sys::run_blocking"),
    ("std::env", &["src/cli/", "src/config/", "src/main.rs"], "settings are handed down from config"),
    ("std::process", &["src/cli/", "src/main.rs", "src/sys/"], "only the command line ends or starts processes"),
    ("crate::sys::sim", &["src/sys/"], "the twins are for tests; take what you need from Sys"),
    ("tokio::signal", &["src/cli/", "src/server.rs", "src/server/", "src/main.rs"], "shutdown is handed down"),
];

/// Uses of what [`BANNED`] names: file, path, reason.
const BANNED_EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Macros that no code may call, and what to do instead. The second list may.
const BANNED_MACROS: &[(&str, &[&str], &str)] = &[
    ("todo", &[], "write it, or return an error that says what is not supported"),
    ("unimplemented", &[], "write it, or return an error that says what is not supported"),
    ("dbg", &[], "use tracing"),
    ("print", &["src/cli/", "src/main.rs"], "use tracing; stdout is for a command's data"),
    ("println", &["src/cli/", "src/main.rs"], "use tracing; stdout is for a command's data"),
    ("eprintln", &["src/cli/", "src/main.rs"], "use tracing"),
];

/// Files that may use `HashMap` or `HashSet`, with the reason why their order never shows.
const UNORDERED_EXCEPTIONS: &[(&str, &str)] =
    &[("src/log/cleaner.rs", "one entry a key of a whole stretch of a log; it is asked, never iterated")];

/// Lines of a file, tests beside it not counted. From 600 on it should say why it is one file.
const MAX_LINES: usize = 1000;

/// Names that say nothing about what is in a module.
const BANNED_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];

#[test]
fn every_layer_imports_only_what_lies_below_it() {
    let mut failures = Failures::default();
    let mut used = BTreeSet::new();
    for source in sources() {
        let Some(layer) = source.layer() else { continue };
        let open = OPEN_LAYERS.iter().find(|(name, _)| *name == layer);
        let Some((_, allowed)) = open.or_else(|| LAYERS.iter().find(|(name, _)| *name == layer)) else {
            failures.add(&source, 1, &format!("the layer '{layer}' is not in the table LAYERS: add it"));
            continue;
        };
        for (line, path) in source.paths() {
            if path.starts_with(&source.way_to_the_root()) {
                failures.add(
                    &source,
                    line,
                    &format!("write '{}' as crate::…, so that its layer shows", path.join("::")),
                );
            }
            let ["crate", target, ..] = path.iter().map(String::as_str).collect::<Vec<_>>()[..] else { continue };
            let is_open = open.is_none() && OPEN_TO_ALL.contains(&target);
            if target == layer || is_open || allowed.contains(&target) {
                continue;
            }
            match IMPORT_EXCEPTIONS.iter().find(|(file, name, _)| *file == source.name && *name == target) {
                Some(exception) => drop(used.insert(*exception)),
                None => failures.add(
                    &source,
                    line,
                    &format!(
                        "'{layer}' may not import '{target}'; it may import {allowed:?}: move the code down, or \
                              hand in what it needs"
                    ),
                ),
            }
        }
    }
    failures.unused(IMPORT_EXCEPTIONS.iter().filter(|entry| !used.contains(*entry)).map(|entry| entry.0));
    failures.report();
}

#[test]
fn only_sys_touches_the_machine() {
    let mut failures = Failures::default();
    let mut used = BTreeSet::new();
    for source in sources() {
        for (line, path) in source.paths() {
            let path = path.join("::");
            for (banned, allowed, instead) in BANNED {
                let names_it = path == *banned || path.starts_with(&format!("{banned}::"));
                if !names_it || allowed.iter().any(|prefix| source.name.starts_with(prefix)) {
                    continue;
                }
                match BANNED_EXCEPTIONS.iter().find(|(file, name, _)| *file == source.name && name == banned) {
                    Some(exception) => drop(used.insert(*exception)),
                    None => failures.add(&source, line, &format!("'{path}': {instead}")),
                }
            }
        }
    }
    failures.unused(BANNED_EXCEPTIONS.iter().filter(|entry| !used.contains(*entry)).map(|entry| entry.0));
    failures.report();
}

#[test]
fn no_macro_leaves_something_undone_or_prints() {
    let mut failures = Failures::default();
    for source in sources() {
        for pair in source.tokens.windows(2) {
            let rule = BANNED_MACROS.iter().find(|(name, ..)| pair[0].text == *name && pair[1].text == "!");
            if let Some((name, allowed, instead)) = rule
                && !allowed.iter().any(|prefix| source.name.starts_with(prefix))
            {
                failures.add(&source, pair[0].line, &format!("{name}!: {instead}"));
            }
        }
    }
    failures.report();
}

#[test]
fn no_unordered_map_where_order_could_show() {
    let mut failures = Failures::default();
    let mut used = BTreeSet::new();
    for source in sources() {
        for token in source.tokens.iter().filter(|token| ["HashMap", "HashSet"].contains(&token.text.as_str())) {
            match UNORDERED_EXCEPTIONS.iter().find(|(file, _)| *file == source.name) {
                Some((file, _)) => drop(used.insert(*file)),
                None => failures.add(
                    &source,
                    token.line,
                    "use BTreeMap or BTreeSet; or, where it is never iterated and has to be fast, add the file to \
                     UNORDERED_EXCEPTIONS with that reason",
                ),
            }
        }
    }
    failures.unused(UNORDERED_EXCEPTIONS.iter().map(|entry| entry.0).filter(|file| !used.contains(file)));
    failures.report();
}

#[test]
fn every_select_is_biased() {
    let mut failures = Failures::default();
    for source in sources() {
        for four in source.tokens.windows(4) {
            let texts = four.iter().map(|token| token.text.as_str()).collect::<Vec<_>>();
            if texts[..2] == ["select", "!"] && texts[3] != "biased" {
                let what = "begin select! with 'biased;' and put the arm that must win first: its order is then ours, \
                            and not a random number's";
                failures.add(&source, four[0].line, what);
            }
        }
    }
    failures.report();
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut failures = Failures::default();
    for source in sources() {
        if source.lines > MAX_LINES {
            let what = format!(
                "{} lines; the most is {MAX_LINES}: split it by subject, or move its tests beside it \
                                (x/tests.rs)",
                source.lines
            );
            failures.add(&source, source.lines, &what);
        }
        if !source.text.starts_with("//!") {
            failures.add(&source, 1, "begin with //!: what it is, its invariant, who calls it");
        }
        let stem = Path::new(&source.name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let folders = source.name.split('/').map(str::to_owned);
        for name in folders.chain([stem]).filter(|name| BANNED_NAMES.contains(&name.as_str())) {
            failures.add(&source, 1, &format!("'{name}' says nothing: name the module after what is in it"));
        }
    }
    failures.report();
}

/// What is wrong, collected so that one run shows all of it.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn add(&mut self, source: &Source, line: usize, what: &str) {
        self.0.push(format!("{}:{line}: {what}", source.name));
    }

    fn unused<'a>(&mut self, files: impl Iterator<Item = &'a str>) {
        self.0.extend(files.map(|file| format!("{file}: its exception is not needed any more: remove it")));
    }

    fn report(mut self) {
        self.0.dedup();
        assert!(self.0.is_empty(), "\n{}\n", self.0.join("\n"));
    }
}

/// A source file, without its tests and comments.
struct Source {
    /// From the root of the repository, with `/`.
    name: String,
    text: String,
    lines: usize,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

impl Source {
    fn new(name: String, text: String) -> Self {
        let tokens = without_tests(tokens(&text));
        Self { name, lines: text.lines().count(), text, tokens }
    }

    /// The folder or file right under `src`; none for `main.rs` and `lib.rs`, which name every layer.
    fn layer(&self) -> Option<&str> {
        let below = self.name.strip_prefix("src/")?;
        let layer = below.split('/').next().unwrap_or(below).trim_end_matches(".rs");
        (!["main", "lib"].contains(&layer)).then_some(layer)
    }

    /// The `super::…` that leaves the layer from this file.
    fn way_to_the_root(&self) -> Vec<String> {
        let depth = self.name.matches('/').count();
        let is_parent = self.name.ends_with("/mod.rs");
        vec!["super".to_owned(); depth - usize::from(is_parent)]
    }

    /// Every path that the code names, `use` trees written out, with its line.
    fn paths(&self) -> Vec<(usize, Vec<String>)> {
        let mut paths = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            if self.tokens[at].text == "use" {
                at = use_tree(&self.tokens, at + 1, &[], &mut paths);
                continue;
            }
            let line = self.tokens[at].line;
            let mut path = Vec::new();
            while at < self.tokens.len() && is_name(&self.tokens[at].text) {
                path.push(self.tokens[at].text.clone());
                let goes_on = self.tokens.get(at + 1).is_some_and(|token| token.text == "::")
                    && self.tokens.get(at + 2).is_some_and(|token| is_name(&token.text));
                at += if goes_on { 2 } else { 1 };
                if !goes_on {
                    break;
                }
            }
            match path.len() {
                0 => at += 1,
                // A lone name is a variable, or was imported.
                1 => {}
                _ => paths.push((line, path)),
            }
        }
        paths
    }
}

/// Writes out one tree of a `use`, from `at`; gives where it ends.
fn use_tree(tokens: &[Token], mut at: usize, prefix: &[String], paths: &mut Vec<(usize, Vec<String>)>) -> usize {
    let mut path = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = use_tree(tokens, at, &path, paths);
                    if tokens.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "," | "}" | ";" => break,
            "::" | "*" => {}
            "as" => at += 1, // and the new name
            "self" if !path.is_empty() => {}
            name => path.push(name.to_owned()),
        }
        at += 1;
    }
    paths.push((line, path));
    at
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, numbers, `::` and single characters; comments, strings and characters are left out.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => at = find(&chars, at, '\n'),
            '/' if chars.get(at + 1) == Some(&'*') => {
                at += 2;
                while at < chars.len() && !(chars[at] == '*' && chars.get(at + 1) == Some(&'/')) {
                    at += 1;
                }
                at += 2;
            }
            '"' => at = end_of_string(&chars, at),
            'r' | 'b' if raw_string(&chars, at).is_some() => at = raw_string(&chars, at).expect("it was found"),
            '\'' => at = end_of_character(&chars, at),
            ':' if chars.get(at + 1) == Some(&':') => {
                tokens.push(Token { text: "::".into(), line });
                at += 2;
            }
            c if c.is_alphanumeric() || c == '_' => {
                while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                    at += 1;
                }
                tokens.push(Token { text: chars[start..at].iter().collect(), line });
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(Token { text: c.into(), line });
                }
                at += 1;
            }
        }
        at = at.min(chars.len());
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn find(chars: &[char], from: usize, what: char) -> usize {
    chars[from..].iter().position(|c| *c == what).map_or(chars.len(), |n| from + n)
}

fn end_of_string(chars: &[char], mut at: usize) -> usize {
    at += 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The end of `r"…"`, `r#"…"#`, `br"…"` if one begins here.
fn raw_string(chars: &[char], from: usize) -> Option<usize> {
    let mut at = from + usize::from(chars[from] == 'b');
    if chars.get(at) != Some(&'r') {
        return None;
    }
    at += 1;
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + hashes) != Some(&'"') {
        return None;
    }
    let end: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = at + hashes + 1;
    let rest: String = chars[body..].iter().collect();
    rest.find(&end).map(|n| body + rest[..n].chars().count() + end.len())
}

/// The end of a character, or of a lifetime.
fn end_of_character(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => find(chars, at + 3, '\'') + 1,
        (Some(_), Some('\'')) => at + 3,
        _ => at + 1,
    }
}

/// Leaves out each item under `#[cfg(test)]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let marker = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_marker = tokens.len() >= at + marker.len()
            && tokens[at..at + marker.len()].iter().zip(marker).all(|(token, text)| token.text == text);
        if !is_marker {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0;
        while at < tokens.len() {
            let text = tokens[at].text.as_str();
            depth += i32::from(text == "{") - i32::from(text == "}");
            at += 1;
            if depth == 0 && ["}", ";"].contains(&text) {
                break;
            }
        }
    }
    kept
}

/// Tests beside a module: `x/tests.rs`, or `x/power_tests.rs` where there are several.
fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests" || stem.to_string_lossy().ends_with("_tests"))
}

/// Every file under `src` that is not a test.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.expect("an entry of src").path()) {
            if path.is_dir() {
                if path.file_name().is_none_or(|name| name != "tests") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|end| end == "rs") && !is_test(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() > 10, "the sources are not where they were");
    let source = |path: PathBuf| {
        let name = path.strip_prefix(root).expect("it lies under the root").to_string_lossy().replace('\\', "/");
        Source::new(name, fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    };
    found.into_iter().map(source).collect()
}

mod the_rules_themselves {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let source = Source::new("src/log/x.rs".into(), text.into());
        source.paths().into_iter().map(|(_, path)| path.join("::")).collect()
    }

    #[test]
    fn use_trees_are_written_out() {
        let found = paths("use crate::{log::{Log, self}, types::*};\nuse std::time::{Duration, Instant as I};");
        assert_eq!(
            found,
            ["crate::log::Log", "crate::log", "crate::types", "std::time::Duration", "std::time::Instant"]
        );
    }

    #[test]
    fn paths_in_code_are_found_and_those_in_comments_strings_and_tests_are_not() {
        let text = r##"
            // std::fs::read
            /* std::fs */
            fn f<'a>(x: &'a str) -> char { let s = "std::fs"; let r = r#"std::fs"#; let c = '"'; rand::random::<u8>() }
            #[cfg(test)]
            mod tests { use std::fs; fn g() { std::fs::read("x"); } }
            #[cfg(test)]
            use std::env;
            const C: char = '\''; const A: u32 = crate::http::LIMIT;
        "##;
        assert_eq!(paths(text), ["rand::random", "crate::http::LIMIT"]);
    }

    #[test]
    fn a_line_is_where_its_path_begins() {
        let source = Source::new("src/log/x.rs".into(), "\n\"a\nb\";\nuse std::fs;".into());
        assert_eq!(source.paths(), [(4, vec!["std".to_owned(), "fs".to_owned()])]);
    }

    #[test]
    fn a_layer_is_the_folder_or_file_under_src() {
        let layer = |name: &str| Source::new(name.into(), String::new()).layer().map(str::to_owned);
        assert_eq!(layer("src/http/api/events.rs").as_deref(), Some("http"));
        assert_eq!(layer("src/server.rs").as_deref(), Some("server"));
        assert_eq!(layer("src/main.rs"), None);
        let way = |name: &str| Source::new(name.into(), String::new()).way_to_the_root().len();
        assert_eq!((way("src/log/mod.rs"), way("src/log/segment.rs"), way("src/server.rs")), (1, 2, 1));
    }
}
