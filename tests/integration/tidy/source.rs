//! Rust's text as the rules need it: without comments, literals and tests; paths spread out.
//!
//! It is apart from the rules because it knows the language and no rule. It is no parser: it reads
//! what rustfmt has formed.

pub(super) fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

pub(super) fn identifiers(code: &str) -> impl Iterator<Item = &str> {
    let other = |char: char| !char.is_alphanumeric() && char != '_';
    code.split(other).filter(|word| !word.is_empty())
}

/// The file without its tests, which stand at its end or in files of their own.
pub(super) fn without_tests<'a>(path: &str, code: &'a str) -> &'a str {
    let apart = ["/tests/", "/tests.rs", "/testing.rs", "/real.rs"];
    if apart.iter().any(|name| path.contains(name)) {
        return "";
    }
    let mut marks = code.match_indices("#[cfg(test)]\n");
    let tests = marks.find(|(start, mark)| {
        let next = code[start + mark.len()..].lines().next();
        next.is_some_and(|line| line.ends_with("mod tests {"))
    });
    tests.map_or(code, |(start, _)| &code[..start])
}

/// The code with comments and the content of literals blanked; lines stay where they are.
pub(super) fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let length = literal(rest);
        if length > 0 {
            code.extend(
                rest[..length]
                    .chars()
                    .map(|char| if char == '\n' { '\n' } else { ' ' }),
            );
            rest = &rest[length..];
            continue;
        }
        // A whole identifier at once: the `r` at the end of one begins no raw string.
        let word = rest.find(|char: char| !char.is_alphanumeric() && char != '_');
        let length = match word {
            Some(0) => rest.chars().next().map_or(0, char::len_utf8),
            Some(length) => length,
            None => rest.len(),
        };
        code.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    code
}

/// The length of the comment or literal that `rest` begins with; 0 if it does not.
fn literal(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |end| end + 2);
    }
    let plain = rest.strip_prefix('b').unwrap_or(rest);
    let prefix = rest.len() - plain.len();
    if let Some(raw) = plain.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = prefix + 1 + hashes + 1;
            return rest[open..]
                .find(&close)
                .map_or(rest.len(), |end| open + end + close.len());
        }
    }
    if let Some(text) = plain.strip_prefix('"') {
        return prefix + 1 + closing(text, '"');
    }
    // A character, and not a lifetime: those have no second quote.
    let character = plain
        .strip_prefix('\'')
        .filter(|inner| inner.starts_with('\\') || inner.chars().nth(1) == Some('\''));
    character.map_or(0, |inner| prefix + 1 + closing(inner, '\''))
}

/// The length up to and with the closing quote that no backslash precedes.
fn closing(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, char) in text.char_indices() {
        if char == quote && !escaped {
            return index + char.len_utf8();
        }
        escaped = char == '\\' && !escaped;
    }
    text.len()
}

/// Every path of the code with its line, trees of imports spread out.
pub(super) fn paths(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut start = 0;
    while let Some(found) = code[start..].find("::") {
        let colons = start + found;
        let before = &code[..colons];
        let word = before.rfind(|char: char| !char.is_alphanumeric() && char != '_');
        let first = &before[word.map_or(0, |index| index + 1)..];
        let line = before.matches('\n').count() + 1;
        let mut found = Vec::new();
        start = colons + spread(first, &code[colons..], &mut found);
        paths.extend(found.into_iter().map(|path| (line, path)));
    }
    paths
}

/// Adds the paths that begin with `prefix` and go on in `rest`; returns how far they go.
fn spread(prefix: &str, rest: &str, found: &mut Vec<String>) -> usize {
    let Some(tail) = rest.strip_prefix("::") else {
        found.push(prefix.to_owned());
        return 0;
    };
    if !tail.starts_with('{') {
        let end = tail.find(|char: char| !char.is_alphanumeric() && char != '_');
        let name = &tail[..end.unwrap_or(tail.len())];
        let length = 2 + name.len();
        return length + spread(&format!("{prefix}::{name}"), &rest[length..], found);
    }
    let mut at = 3;
    while at < rest.len() && !rest[at..].starts_with('}') {
        let end = rest[at..].find(|char: char| !char.is_alphanumeric() && char != '_');
        let name = &rest[at..at + end.unwrap_or(rest.len() - at)];
        at += if name.is_empty() {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        } else {
            name.len()
                + spread(
                    &format!("{prefix}::{name}"),
                    &rest[at + name.len()..],
                    found,
                )
        };
    }
    at + 1
}
