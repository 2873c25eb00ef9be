//! Reads as much of a page as a person needs who has no screen: headings, forms, attributes by id.

/// A start tag with its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) name: String,
    attributes: Vec<(String, String)>,
}

impl Tag {
    /// The value of an attribute; empty where it stands alone.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// A piece of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Start(Tag),
    End(String),
    Text(String),
}

/// A page, in pieces.
#[derive(Debug, Clone, Default)]
pub(super) struct Html(Vec<Piece>);

/// A form, filled in as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    /// Where it posts to; empty for the page's own address.
    pub(super) action: String,
    /// Hidden fields and what is chosen.
    pub(super) fields: Vec<(String, String)>,
    /// Its buttons: name, value, text.
    pub(super) buttons: Vec<(String, String, String)>,
}

impl Html {
    pub(super) fn read(source: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = source;
        while let Some(at) = rest.find('<') {
            let (text, tag) = rest.split_at(at);
            if !text.is_empty() {
                pieces.push(Piece::Text(decode(text)));
            }
            let (piece, after) = read_tag(&tag[1..]);
            pieces.extend(piece);
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(decode(rest)));
        }
        Self(pieces)
    }

    /// The first element with this `id`.
    pub(super) fn by_id(&self, id: &str) -> Option<&Tag> {
        self.tags().find(|tag| tag.attribute("id") == Some(id))
    }

    /// What the first element of this name says, in one line.
    pub(super) fn text_of(&self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|piece| matches!(piece, Piece::Start(tag) if tag.name == name))?;
        Some(self.text_from(at, name))
    }

    /// The first form.
    pub(super) fn form(&self) -> Option<Form> {
        let start = self.0.iter().position(|piece| matches!(piece, Piece::Start(tag) if tag.name == "form"))?;
        let Piece::Start(tag) = &self.0[start] else { return None };
        let action = tag.attribute("action").unwrap_or_default().to_owned();
        let mut form = Form { action, fields: Vec::new(), buttons: Vec::new() };
        for (at, piece) in self.0.iter().enumerate().skip(start + 1) {
            match piece {
                Piece::End(name) if name == "form" => break,
                Piece::Start(tag) if tag.name == "input" => form.fields.extend(value_of(tag)),
                Piece::Start(tag) if tag.name == "button" => {
                    let own = |name| tag.attribute(name).unwrap_or_default().to_owned();
                    form.buttons.push((own("name"), own("value"), self.text_from(at, "button")));
                }
                _ => {}
            }
        }
        Some(form)
    }

    fn tags(&self) -> impl Iterator<Item = &Tag> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Start(tag) => Some(tag),
            Piece::End(_) | Piece::Text(_) => None,
        })
    }

    fn text_from(&self, start: usize, name: &str) -> String {
        let inner = self.0[start..].iter().take_while(|piece| !matches!(piece, Piece::End(end) if end == name));
        let texts = inner.filter_map(|piece| match piece {
            Piece::Text(text) => Some(text.as_str()),
            Piece::Start(_) | Piece::End(_) => None,
        });
        texts.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// What an input adds to its form.
fn value_of(input: &Tag) -> Option<(String, String)> {
    let kind = input.attribute("type").unwrap_or("text");
    if matches!(kind, "radio" | "checkbox") && input.attribute("checked").is_none() {
        return None;
    }
    Some((input.attribute("name")?.to_owned(), input.attribute("value").unwrap_or_default().to_owned()))
}

/// Reads a tag after its `<`, and answers with what follows it. Comments and the doctype are nothing.
fn read_tag(source: &str) -> (Option<Piece>, &str) {
    let (name, mut rest) = word(source);
    if let Some(end) = name.strip_prefix('/') {
        let after = rest.find('>').map_or("", |at| &rest[at + 1..]);
        return (Some(Piece::End(end.to_ascii_lowercase())), after);
    }
    if name.starts_with('!') {
        return (None, rest.find('>').map_or("", |at| &rest[at + 1..]));
    }
    let mut tag = Tag { name: name.to_ascii_lowercase(), attributes: Vec::new() };
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
        if let Some(after) = rest.strip_prefix('>') {
            return (Some(Piece::Start(tag)), after);
        }
        if rest.is_empty() {
            return (Some(Piece::Start(tag)), "");
        }
        let (name, after) = word(rest);
        let (value, after) = match after.trim_start().strip_prefix('=') {
            Some(after) => value(after.trim_start()),
            None => ("", after),
        };
        tag.attributes.push((name.to_ascii_lowercase(), decode(value)));
        rest = after;
    }
}

/// A name, and what follows it. Takes at least one character, so that reading goes on whatever the page holds.
fn word(source: &str) -> (&str, &str) {
    let first = source.chars().next().map_or(0, char::len_utf8);
    let end = source[first..].find(|c: char| c.is_whitespace() || matches!(c, '=' | '>' | '/'));
    source.split_at(end.map_or(source.len(), |at| first + at))
}

/// An attribute's value, and what follows it.
fn value(source: &str) -> (&str, &str) {
    for quote in ['"', '\''] {
        if let Some(quoted) = source.strip_prefix(quote) {
            return quoted.split_once(quote).unwrap_or((quoted, ""));
        }
    }
    let end = source.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(source.len());
    source.split_at(end)
}

/// Replaces the character references that templates write.
fn decode(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        decoded.push_str(before);
        let found = after.split_once(';').and_then(|(name, after)| Some((reference(name)?, after)));
        let (character, after) = found.unwrap_or(('&', after));
        decoded.push(character);
        rest = after;
    }
    decoded.push_str(rest);
    decoded
}

fn reference(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"<!doctype html>
<main id="home" data-handle='a"b' hidden><h1>Connect <bdi>A&#x26;B</bdi>?</h1>
<form method="post" action="/decide?a=1&amp;b=2">
<input type="hidden" name="page" value="p&#38;q"><input name=plain value=x>
<input type="radio" name="account" value="one" checked><input type="radio" name="account" value="two">
<button name="decision" value="allow">Allow <i>it</i></button></form><input name="outside" value="no"></main>"#;

    #[test]
    fn headings_and_attributes_are_read_as_a_browser_shows_them() {
        let html = Html::read(PAGE);
        assert_eq!(html.text_of("h1").as_deref(), Some("Connect A&B?"));
        let home = html.by_id("home").unwrap();
        assert_eq!(home.attribute("data-handle"), Some("a\"b"));
        assert_eq!(home.attribute("hidden"), Some(""));
        assert_eq!(home.attribute("data-code"), None);
    }

    #[test]
    fn a_form_sends_what_is_chosen_and_nothing_from_outside() {
        let form = Html::read(PAGE).form().unwrap();
        assert_eq!(form.action, "/decide?a=1&b=2");
        let fields: Vec<_> = form.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(fields, [("page", "p&q"), ("plain", "x"), ("account", "one")]);
        assert_eq!(form.buttons, [("decision".to_owned(), "allow".to_owned(), "Allow it".to_owned())]);
    }

    #[test]
    fn a_broken_page_is_read_to_its_end() {
        for broken in
            ["<", "<a", "<a b", "<a b=", "<a b=\"c", "a & b &; &#x; &#xfffffff;", "<>x", "</", "<!--", "<a =\">"]
        {
            let html = Html::read(broken);
            assert!(html.form().is_none(), "{broken}");
        }
    }
}
