//! NATS subject patterns: whether two of them can match the same subject.

/// Whether `text` is a subject or a pattern: tokens without spaces, none empty, `>` last only.
pub fn is_pattern(text: &str) -> bool {
    let mut tokens = text.split('.').peekable();
    while let Some(token) = tokens.next() {
        if token.is_empty() || token.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return false;
        }
        if token == ">" && tokens.peek().is_some() {
            return false;
        }
    }
    true
}

/// Whether there is a subject that both patterns match.
pub fn overlap(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            // `>` needs at least one token on the other side.
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(x), Some(y)) if x == y || x == "*" || y == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_symmetric_and_right() {
        for (a, b, expected) in [
            ("$JS.x", "$JS.>", true),
            ("$JS.API.INFO", "$JS.>", true),
            ("$JS", "$JS.>", false),
            (">", "$JS.>", true),
            ("*.x", "$JS.>", true),
            ("*", "$JS.>", false),
            ("*.>", "$NEX.>", true),
            ("orders.*", "orders.new", true),
            ("orders.*", "orders.new.eu", false),
            ("orders.*.eu", "orders.new.*", true),
            ("orders.a", "orders.b", false),
            ("a.b", "a.b", true),
            ("a.>", "*.b.c", true),
            ("$jsx.a", "$JS.>", false),
        ] {
            assert_eq!(overlap(a, b), expected, "{a} {b}");
            assert_eq!(overlap(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn patterns_are_recognised() {
        for good in ["a", "a.b", "a.*", "a.>", ">", "*.b", "a*"] {
            assert!(is_pattern(good), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a.>.b", "a b", "a.\n"] {
            assert!(!is_pattern(bad), "{bad:?}");
        }
    }
}
