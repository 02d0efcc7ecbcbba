//! A quick search for repeated names. It makes no paths and decodes nothing; where it finds anything
//! but plain objects, the slow search gives the error.

use memchr::memchr2;

/// The most members of an object that are searched here.
const FEW: usize = 12;

/// Whether `json`, which is known to be valid, is an array of one or more objects in which no name
/// is repeated. `false` also where this is not certain: for large objects, and for names with
/// escapes.
pub(crate) fn is_array_of_unique_objects(json: &str) -> bool {
    let mut scan = Scan(json.as_bytes());
    scan.array().is_some()
}

/// What is left of valid JSON. The methods return `None` for what is not wanted.
struct Scan<'a>(&'a [u8]);

// === impl Scan ===

impl<'a> Scan<'a> {
    /// Reads an array of unique objects.
    fn array(&mut self) -> Option<()> {
        let mut next = (self.token()? == b'[').then_some(b',')?;
        while next == b',' {
            self.object()?;
            next = self.token()?;
        }
        (next == b']').then_some(())
    }

    /// Reads an object with unique names.
    fn object(&mut self) -> Option<()> {
        let mut names = [&b""[..]; FEW];
        let mut count = 0;
        let mut next = (self.token()? == b'{').then_some(b',')?;
        while next == b',' {
            match self.token()? {
                b'"' => {}
                b'}' if count == 0 => return Some(()),
                _ => return None,
            }
            let name = self.name()?;
            let (earlier, free) = names.split_at_mut(count);
            if earlier.contains(&name) {
                return None;
            }
            *free.first_mut()? = name;
            count += 1;
            (self.token()? == b':').then_some(())?;
            self.skip_value()?;
            next = self.token()?;
        }
        (next == b'}').then_some(())
    }

    /// Takes one byte, after white space.
    fn token(&mut self) -> Option<u8> {
        loop {
            match self.take()? {
                b' ' | b'\t' | b'\n' | b'\r' => {}
                byte => return Some(byte),
            }
        }
    }

    fn take(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// Reads a name after its first quote.
    fn name(&mut self) -> Option<&'a [u8]> {
        let end = memchr2(b'"', b'\\', self.0)?;
        let (name, rest) = self.0.split_at(end);
        let (quote, rest) = rest.split_first()?;
        self.0 = rest;
        (*quote == b'"').then_some(name)
    }

    /// Skips a string after its first quote.
    fn skip_string(&mut self) -> Option<()> {
        loop {
            let at = memchr2(b'"', b'\\', self.0)?;
            let is_end = self.0.get(at) == Some(&b'"');
            self.0 = self.0.get(at + if is_end { 1 } else { 2 }..)?;
            if is_end {
                return Some(());
            }
        }
    }

    fn skip_value(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        let mut next = self.token()?;
        loop {
            match next {
                b'"' => self.skip_string()?,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.checked_sub(1)?,
                // A number or a literal ends before the next comma or bracket.
                _ if depth == 0 => {
                    let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']');
                    let end = self.0.iter().position(is_end)?;
                    self.0 = self.0.get(end..)?;
                }
                _ => {}
            }
            if depth == 0 {
                return Some(());
            }
            next = self.take()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_plain_objects_with_different_names_are_told_apart() {
        for json in [
            r#"[{}]"#,
            r#" [ { } , {"a" : 1 , "b":[{"a":1,"a":2}]} ] "#,
            r#"[{"a":-1.5e3,"b":null,"c":true},{"a":"]}\"},{\\"}]"#,
            r#"[{"a":{"b":{"a":[[],{}]}},"b":"\ud800"}]"#,
            r#"[{"a":"b","b":"a"},{"a":1}]"#,
        ] {
            assert!(is_array_of_unique_objects(json), "{json}");
        }
        for json in [
            r#"[]"#,
            r#"{}"#,
            r#"null"#,
            r#"[1]"#,
            r#"[{},"x"]"#,
            r#"[[{}]]"#,
            r#"[{"a":1,"a":2}]"#,
            r#"[{},{"a":"x\"","b":{},"a":2}]"#,
            r#"[{"a":[1,2],"b":1.5 ,"a":2}]"#,
            // Not certain.
            r#"[{"\u0061":1}]"#,
            r#"[{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1,"k":1,"l":1,"m":1}]"#,
        ] {
            assert!(!is_array_of_unique_objects(json), "{json}");
        }
    }
}
