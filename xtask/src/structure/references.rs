//! Paths in one Rust file: which modules it declares, what it imports, and what it names by a path.
//!
//! Reads words and signs, not syntax trees. A path in a string (`#[serde(with = "…")]`) or made by a macro is not seen.

use super::lex;

/// Path of a module or item within its crate: names, outermost first.
pub(super) type Names = Vec<String>;

/// Name that a `use` brings into a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Import {
    /// Path as written, without a closing `self`; of a glob the part before the star.
    pub(super) path: Names,
    /// Name in the importing module; `None` for a glob and for `as _`.
    pub(super) name: Option<String>,
    pub(super) glob: bool,
    /// Whether it is re-exported: `pub`, `pub(crate)` and the like.
    pub(super) public: bool,
    pub(super) line: usize,
}

/// Path outside of a `use`; a single word is a path too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mention {
    pub(super) path: Names,
    pub(super) line: usize,
}

/// References and declarations of a module; an inline module has its own.
#[derive(Debug, Default)]
pub(super) struct Text {
    /// Names of the modules in files of their own that are declared here, with the line.
    pub(super) declared: Vec<(String, usize)>,
    pub(super) imports: Vec<Import>,
    pub(super) mentions: Vec<Mention>,
}

/// The texts in `source`: that of the file's module, under no names, and those of the modules inline in it.
pub(super) fn read(source: &str) -> Vec<(Names, Text)> {
    let code = lex::without_tests(&lex::code(source));
    let tokens = tokens(&code);
    let mut reader = Reader { tokens: &tokens, at: 0, texts: vec![(Names::new(), Text::default())] };
    reader.read();
    reader.texts
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// A word after `r#`, which is never a keyword.
    Raw(&'a str),
    PathSeparator,
    Sign(char),
}

fn tokens(code: &str) -> Vec<(Token<'_>, usize)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(c) = code[at..].chars().next() {
        let word = |from: usize| {
            let rest = &code[from..];
            &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())]
        };
        let (token, len) = if code[at..].starts_with("r#") && !word(at + 2).is_empty() {
            (Some(Token::Raw(word(at + 2))), 2 + word(at + 2).len())
        } else if is_word(c) {
            (Some(Token::Word(word(at))), word(at).len())
        } else if c == '\'' {
            // A lifetime; literals are gone.
            (None, 1 + word(at + 1).len())
        } else if code[at..].starts_with("::") {
            (Some(Token::PathSeparator), 2)
        } else {
            (Some(Token::Sign(c)).filter(|_| !c.is_whitespace()), c.len_utf8())
        };
        found.extend(token.map(|token| (token, line)));
        line += usize::from(c == '\n');
        at += len;
    }
    found
}

struct Reader<'a> {
    tokens: &'a [(Token<'a>, usize)],
    at: usize,
    texts: Vec<(Names, Text)>,
}

impl<'a> Reader<'a> {
    fn token(&self, ahead: usize) -> Option<Token<'a>> {
        self.tokens.get(self.at + ahead).map(|(token, _)| *token)
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).map_or(0, |(_, line)| *line)
    }

    fn before(&self) -> Option<Token<'a>> {
        self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map(|(token, _)| *token)
    }

    fn read(&mut self) {
        let mut depth = 0_usize;
        // Inline modules that are open: how deep their brace stands, and which text is theirs.
        let mut open: Vec<(usize, usize)> = Vec::new();
        let mut public = false;
        while let Some(token) = self.token(0) {
            let text = open.last().map_or(0, |(_, text)| *text);
            let was_public = std::mem::take(&mut public);
            match token {
                Token::Sign('{') => depth += 1,
                Token::Sign('}') => {
                    depth = depth.saturating_sub(1);
                    open.pop_if(|(brace, _)| *brace == depth);
                }
                Token::Word("pub") => {
                    self.skip_visibility();
                    public = true;
                    continue;
                }
                Token::Word("mod") => match (self.token(1), self.token(2)) {
                    (Some(Token::Word(name) | Token::Raw(name)), Some(Token::Sign(';'))) => {
                        let line = self.line();
                        self.texts[text].1.declared.push((name.to_owned(), line));
                        self.at += 2;
                    }
                    (Some(Token::Word(name) | Token::Raw(name)), Some(Token::Sign('{'))) => {
                        let names = [&self.texts[text].0[..], &[name.to_owned()]].concat();
                        open.push((depth, self.texts.len()));
                        self.texts.push((names, Text::default()));
                        depth += 1;
                        self.at += 2;
                    }
                    _ => {}
                },
                // `use<'a>` says what an opaque type captures.
                Token::Word("use") if self.token(1) != Some(Token::Sign('<')) => {
                    self.at += 1;
                    self.import(Names::new(), was_public, text);
                    continue;
                }
                Token::Word(_) | Token::Raw(_) if self.begins_a_path() => {
                    let line = self.line();
                    let path = self.path();
                    self.texts[text].1.mentions.push(Mention { path, line });
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    /// Steps over `pub` and what restricts it, which is no reference.
    fn skip_visibility(&mut self) {
        self.at += 1;
        let restricted = match (self.token(0), self.token(1), self.token(2)) {
            (Some(Token::Sign('(')), Some(Token::Word("in")), _) => true,
            (
                Some(Token::Sign('(')),
                Some(Token::Word("crate" | "super" | "self")),
                Some(Token::Sign(')')),
            ) => true,
            // A tuple's field in parentheses: `pub (crate::a::B)`.
            _ => false,
        };
        while restricted && self.token(0).is_some_and(|token| token != Token::Sign(')')) {
            self.at += 1;
        }
        self.at += usize::from(restricted);
    }

    /// Whether the word here is a path's first: not a field's or method's name, nor inside of a path.
    fn begins_a_path(&self) -> bool {
        match self.before() {
            Some(Token::PathSeparator | Token::Sign('.')) => false,
            // A macro's `$name`, but not its `$crate`.
            Some(Token::Sign('$')) => self.token(0) == Some(Token::Word("crate")),
            _ => true,
        }
    }

    /// Words joined by `::` from here on.
    fn path(&mut self) -> Names {
        let mut names = Names::new();
        while let Some(Token::Word(word) | Token::Raw(word)) = self.token(0) {
            names.push(word.to_owned());
            self.at += 1;
            let goes_on = self.token(0) == Some(Token::PathSeparator)
                && matches!(self.token(1), Some(Token::Word(_) | Token::Raw(_)));
            if !goes_on {
                break;
            }
            self.at += 1;
        }
        names
    }

    /// Reads one tree of a `use`, of which `stem` was read before.
    fn import(&mut self, stem: Names, public: bool, text: usize) {
        // `::name` is another crate's.
        if stem.is_empty() && self.token(0) == Some(Token::PathSeparator) {
            while self.token(0).is_some_and(|token| token != Token::Sign(';')) {
                self.at += 1;
            }
            return;
        }
        let line = self.line();
        let mut path = [stem, self.path()].concat();
        if self.token(0) == Some(Token::PathSeparator) {
            self.at += 1;
        }
        match self.token(0) {
            Some(Token::Sign('{')) => {
                self.at += 1;
                while self.token(0).is_some_and(|token| token != Token::Sign('}')) {
                    let before = self.at;
                    self.import(path.clone(), public, text);
                    if self.token(0) == Some(Token::Sign(',')) || self.at == before {
                        self.at += 1;
                    }
                }
                self.at += 1;
            }
            Some(Token::Sign('*')) => {
                self.at += 1;
                self.texts[text].1.imports.push(Import { path, name: None, glob: true, public, line });
            }
            _ => {
                if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                    path.pop();
                }
                let mut name = path.last().cloned();
                if let (Some(Token::Word("as")), Some(Token::Word(other) | Token::Raw(other))) =
                    (self.token(0), self.token(1))
                {
                    name = Some(other.to_owned()).filter(|other| other != "_");
                    self.at += 2;
                }
                if !path.is_empty() {
                    self.texts[text].1.imports.push(Import { path, name, glob: false, public, line });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(source: &str) -> Vec<String> {
        let (_, text) = read(source).remove(0);
        let show = |import: Import| {
            let star = if import.glob { "::*" } else { "" };
            let public = if import.public { "pub " } else { "" };
            let name = import.name.filter(|name| import.path.last() != Some(name));
            let name = name.map(|name| format!(" as {name}")).unwrap_or_default();
            format!("{public}{}{star}{name}", import.path.join("::"))
        };
        text.imports.into_iter().map(show).collect()
    }

    fn mentions(source: &str) -> Vec<String> {
        let (_, text) = read(source).remove(0);
        text.mentions
            .into_iter()
            .map(|mention| mention.path.join("::"))
            .filter(|path| path.contains("::"))
            .collect()
    }

    #[test]
    fn trees_of_use_are_read_to_their_leaves() {
        for (source, expected) in [
            ("use crate::a;", &["crate::a"][..]),
            ("use crate::a as b;", &["crate::a as b"]),
            ("pub use a::B;", &["pub a::B"]),
            ("pub(crate) use a::B;", &["pub a::B"]),
            ("pub(in crate::x) use a::B;", &["pub a::B"]),
            (
                "use crate::{a::{self, B, c::{D, *}}, e::F as _};",
                &["crate::a", "crate::a::B", "crate::a::c::D", "crate::a::c::*", "crate::e::F"],
            ),
            ("use {crate::a, super::b};", &["crate::a", "super::b"]),
            ("use super::*; use ::a::b; fn f() { use self::c::d; }", &["super::*", "self::c::d"]),
            ("fn f<'a>() -> impl X + use<'a> { g() }", &[]),
            ("use crate::r#fn::{r#type,};", &["crate::fn::type"]),
        ] {
            assert_eq!(imports(source), expected, "{source}");
        }
    }

    #[test]
    fn paths_are_found_where_they_stand() {
        for (source, expected) in [
            ("fn f() { crate::a::g(); }", &["crate::a::g"][..]),
            ("fn f(x: super::super::a::B) -> c::D<e::F> {}", &["super::super::a::B", "c::D", "e::F"]),
            ("pub struct A(pub (crate::a::B), pub(crate) c::D);", &["crate::a::B", "c::D"]),
            ("pub(in crate::a) fn f() {} pub(super) fn g() {}", &[]),
            ("fn f() { x.a::<B>(); ::c::d(); a::<u8>::e(); }", &[]),
            ("macro_rules! m { ($x:path) => { $crate::a::f($x::y) } }", &["crate::a::f"]),
            ("impl<'a> crate::a::T for X where Y: crate\n::b::Z {}", &["crate::a::T", "crate::b::Z"]),
        ] {
            assert_eq!(mentions(source), expected, "{source}");
        }
    }

    #[test]
    fn modules_have_their_own_texts() {
        let texts = read("mod a; mod b { mod c; mod d { use e; } use f; }\nmod g;\n#[cfg(test)] mod tests;");
        let shown: Vec<_> = texts
            .iter()
            .map(|(names, text)| {
                let declared: Vec<_> =
                    text.declared.iter().map(|(name, line)| format!("{name}:{line}")).collect();
                (names.join("::"), declared.join(" "), text.imports.len())
            })
            .collect();
        let expected = [("", "a:1 g:2", 0), ("b", "c:1", 1), ("b::d", "", 1)];
        assert_eq!(shown, expected.map(|(names, declared, n)| (names.to_owned(), declared.to_owned(), n)));
    }
}
