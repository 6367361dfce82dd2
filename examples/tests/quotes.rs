//! What the pages quote stands in the programs that they name.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a page that cannot be read fails its test")]

use std::fs;
use std::path::Path;

/// Every Rust block that follows a link to a program is in it, line by line, whatever its indentation.
fn check(page: &str) -> usize {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let text = fs::read_to_string(docs.join(page)).unwrap();
    let mut program: Option<(String, String)> = None;
    let mut quotes = 0;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with('#') {
            program = None;
        }
        if let Some(name) = linked(line) {
            let source = fs::read_to_string(docs.join("../examples/src/bin").join(name)).unwrap();
            program = Some((name.to_owned(), plain(source.lines())));
        }
        if line == "```rust" {
            let quote = plain(lines.by_ref().take_while(|line| *line != "```"));
            if let Some((name, source)) = &program {
                assert!(source.contains(&quote), "{page} quotes what {name} does not say:\n{quote}");
                quotes += 1;
            }
        }
    }
    quotes
}

fn linked(line: &str) -> Option<&str> {
    Some(line.split_once("../examples/src/bin/")?.1.split_once(')')?.0)
}

fn plain<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.map(|line| format!("{}\n", line.trim())).collect()
}

#[test]
fn the_recipes_quote_the_programs() {
    assert_eq!(check("recipes.md"), 9);
}

#[test]
fn the_page_on_fencing_quotes_the_programs() {
    assert_eq!(check("fencing.md"), 8);
}

#[test]
fn the_page_on_the_memory_store_quotes_the_program() {
    assert_eq!(check("backends/memory.md"), 2);
}
