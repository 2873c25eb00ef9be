//! Lines of a streamed body, each within its bound.

use std::time::Duration;

use axum::body::{BodyDataStream, Bytes};
use futures::StreamExt;

use super::body::BODY_LIMIT;
use crate::problem::{Problem, ProblemCode};

/// How long the next piece of a streamed body may take.
const PIECE_TIME: Duration = Duration::from_secs(30);

/// The lines of a body. One that is too long is reported as such and skipped to its end.
pub(crate) struct Lines {
    body: BodyDataStream,
    /// What arrived and is not looked at yet.
    rest: Bytes,
    /// The line so far.
    line: Vec<u8>,
    is_too_long: bool,
    is_over: bool,
}

impl Lines {
    pub(crate) fn of(body: BodyDataStream) -> Self {
        Self { body, rest: Bytes::new(), line: Vec::new(), is_too_long: false, is_over: false }
    }

    /// The next line without its end; none when the body is over. A connection that breaks or stalls ends it with a
    /// problem.
    pub(crate) async fn next(&mut self) -> Option<Result<Vec<u8>, Problem>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let piece = self.rest.split_to(end + 1);
                self.take(&piece[..end]);
                return Some(self.finish());
            }
            let piece = std::mem::take(&mut self.rest);
            self.take(&piece);
            if self.is_over {
                let has_line = !self.line.is_empty() || self.is_too_long;
                return has_line.then(|| self.finish());
            }
            match tokio::time::timeout(PIECE_TIME, self.body.next()).await {
                Ok(Some(Ok(piece))) => self.rest = piece,
                Ok(None) => self.is_over = true,
                Ok(Some(Err(_))) | Err(_) => {
                    self.is_over = true;
                    self.line.clear();
                    self.is_too_long = false;
                    return Some(Err(Problem::new(ProblemCode::RequestTimeout)));
                }
            }
        }
    }

    fn take(&mut self, piece: &[u8]) {
        if self.line.len() + piece.len() > BODY_LIMIT {
            self.is_too_long = true;
            self.line.clear();
        }
        if !self.is_too_long {
            self.line.extend_from_slice(piece);
        }
    }

    fn finish(&mut self) -> Result<Vec<u8>, Problem> {
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.is_too_long) {
            let detail = format!("At most {BODY_LIMIT} bytes are read of a line.");
            return Err(Problem::with(ProblemCode::BodyTooLarge, detail).member("limit", BODY_LIMIT));
        }
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    async fn lines(pieces: &[&str]) -> Vec<Result<String, &'static str>> {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, std::io::Error>(piece.as_bytes().to_vec())).collect();
        let body = Body::from_stream(futures::stream::iter(pieces));
        let mut lines = Lines::of(body.into_data_stream());
        let mut found = Vec::new();
        while let Some(line) = lines.next().await {
            found.push(match line {
                Ok(line) => Ok(String::from_utf8(line).expect("text")),
                Err(problem) => Err(problem.code().as_str()),
            });
        }
        found
    }

    fn good(texts: &[&str]) -> Vec<Result<String, &'static str>> {
        texts.iter().map(|text| Ok((*text).to_owned())).collect()
    }

    #[tokio::test]
    async fn lines_are_found_wherever_the_pieces_end() {
        assert_eq!(lines(&["a\nbc\n"]).await, good(&["a", "bc"]));
        assert_eq!(lines(&["a", "\nb", "c", "\n\nd"]).await, good(&["a", "bc", "", "d"]));
        assert_eq!(lines(&[]).await, good(&[]));
        assert_eq!(lines(&["\n"]).await, good(&[""]));
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_does_not_take_the_next_one_with_it() {
        let long = "x".repeat(BODY_LIMIT + 1);
        let fits = "y".repeat(BODY_LIMIT);
        let (one, other) = long.split_at(100);
        let found = lines(&[one, other, "\nok\n", &fits, "\n", &long, &long]).await;
        assert_eq!(found[0], Err("body-too-large"));
        assert_eq!(found[1], Ok("ok".to_owned()));
        assert_eq!(found[2], Ok(fits));
        assert_eq!(found[3..], [Err("body-too-large")]);
    }
}
