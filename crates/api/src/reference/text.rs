//! The little markup that our own texts use: paragraphs, `code` and **bold**.

/// A run of text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// As it is.
    Plain(&'a str),
    /// Between backticks.
    Code(&'a str),
    /// Between doubled asterisks.
    Bold(&'a str),
}

/// Text between blank lines.
pub(super) type Paragraph<'a> = Vec<Piece<'a>>;

/// The paragraphs of a text.
pub(super) fn paragraphs(text: &str) -> Vec<Paragraph<'_>> {
    text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()).map(pieces).collect()
}

/// The runs of a paragraph.
pub(super) fn pieces(text: &str) -> Paragraph<'_> {
    let mut pieces = Vec::new();
    for (number, part) in text.split('`').enumerate() {
        if number % 2 == 1 {
            pieces.push(Piece::Code(part));
            continue;
        }
        for (number, part) in part.split("**").enumerate() {
            match part {
                "" => {}
                _ if number % 2 == 1 => pieces.push(Piece::Bold(part)),
                _ => pieces.push(Piece::Plain(part)),
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_bold_are_told_apart() {
        assert_eq!(
            pieces("**Cause.** The `user_id` is **not** `**x**`."),
            [
                Piece::Bold("Cause."),
                Piece::Plain(" The "),
                Piece::Code("user_id"),
                Piece::Plain(" is "),
                Piece::Bold("not"),
                Piece::Plain(" "),
                Piece::Code("**x**"),
                Piece::Plain("."),
            ]
        );
    }

    #[test]
    fn paragraphs_are_separated_by_blank_lines() {
        assert_eq!(paragraphs("a\nb\n\n\nc\n").len(), 2);
    }
}
