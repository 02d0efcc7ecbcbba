//! The default text of an answer: Markdown about the stream that carries it.

use std::net::{IpAddr, SocketAddr};

use crate::conversation::Conversation;
use crate::occasion::{Examples, Occasion};
use crate::options::Pace;

/// The most characters of the user's text that are quoted.
const QUOTE: usize = 280;

/// Returns the answer to a conversation that asks for nothing special.
pub(crate) fn prose(conversation: &Conversation, occasion: &Occasion, choice: usize) -> String {
    let pace = occasion.pace;
    let mut answer = String::new();
    if choice > 0 {
        answer.push_str(&format!(
            "*Choice {} of {}.* ",
            choice + 1,
            conversation.choices
        ));
    }
    if let Some(result) = &conversation.tool_result {
        answer.push_str(&format!(
            "The tool came back with:\n\n{}\n\nThat is the whole of what I know about it.",
            quote(result)
        ));
        return answer;
    }
    answer.push_str(&opening(conversation));
    if !conversation.images.is_empty() {
        let kinds = conversation
            .images
            .iter()
            .map(|kind| escape(kind))
            .collect::<Vec<_>>()
            .join(", ");
        let noun = if conversation.images.len() == 1 {
            "image"
        } else {
            "images"
        };
        answer.push_str(&format!(
            "You sent {} {noun}: {kinds}.\n\n",
            conversation.images.len()
        ));
    }
    match Subject::of(&conversation.question) {
        Subject::Greeting => {
            answer.push_str(&table(conversation, pace));
            answer.push_str(WHAT_TO_TRY);
            answer.push_str(CONFIGURE);
        }
        Subject::Code => {
            answer.push_str(&code(occasion.examples));
            answer.push_str(CONFIGURE);
        }
        Subject::Table => answer.push_str(&table(conversation, pace)),
        Subject::List => answer.push_str(WHAT_TO_TRY),
        Subject::Joke => answer.push_str(JOKE),
        Subject::Poem => answer.push_str(POEM),
        Subject::Other => {
            answer.push_str(&table(conversation, pace));
            answer.push_str(WHAT_TO_TRY);
            answer.push_str(&code(occasion.examples));
            answer.push_str(CONFIGURE);
        }
    }
    answer.truncate(answer.trim_end().len());
    answer
}

/// Returns the reasoning before the answer.
pub(crate) fn reasoning(conversation: &Conversation) -> String {
    format!(
        "The user asks: {}. The conversation has {} message{}, and {} tools are on offer. I am a simulator, so there is nothing to look up: \
         I say what I am, how fast I go, and how a real model is plugged in.",
        shorten(conversation.question.trim(), 120),
        conversation.messages,
        if conversation.messages == 1 { "" } else { "s" },
        conversation.tools.len(),
    )
}

/// Returns the text of a refusal.
pub(crate) const REFUSAL: &str = "I'm sorry, I can't assist with that request.";

/// Returns the topic of the question, by its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Greeting,
    Code,
    Table,
    List,
    Joke,
    Poem,
    Other,
}

impl Subject {
    fn of(question: &str) -> Self {
        let question = question.to_lowercase();
        let words: Vec<&str> = question
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect();
        let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(word));
        if has(&["poem", "haiku", "verse", "rhyme"]) {
            Self::Poem
        } else if has(&["joke", "jokes", "funny"]) {
            Self::Joke
        } else if has(&["code", "program", "function", "snippet", "script"]) {
            Self::Code
        } else if has(&["table", "tables"]) {
            Self::Table
        } else if has(&["list", "lists", "bullets"]) {
            Self::List
        } else if words.len() <= 4
            && has(&[
                "hello", "hi", "hey", "hallo", "hola", "ping", "moin", "bonjour",
            ])
        {
            Self::Greeting
        } else {
            Self::Other
        }
    }
}

fn opening(conversation: &Conversation) -> String {
    let model = escape(&conversation.model);
    let mut text = match Subject::of(&conversation.question) {
        Subject::Greeting => format!(
            "Hello! 👋 I am **{model}**, the simulator inside Tokenwire: no model, no key and no network are behind these words.\n\n"
        ),
        _ => {
            format!(
                "This is **{model}**, Tokenwire's simulator. It does not think; it streams, so that you can see the wire at work.\n\n"
            )
        }
    };
    let question = conversation.question.trim();
    if !question.is_empty() {
        text.push_str(&format!("You wrote:\n\n{}\n\n", quote(question)));
    }
    if let Some(earlier) = conversation
        .earlier_question
        .as_deref()
        .map(str::trim)
        .filter(|earlier| !earlier.is_empty())
    {
        text.push_str(&format!(
            "Before that you asked “{}”, and I have not forgotten it.\n\n",
            escape(&shorten(earlier, 80))
        ));
    }
    text
}

fn table(conversation: &Conversation, pace: Pace) -> String {
    let messages = conversation.messages;
    let between = pace.between_tokens;
    let speed = if between.is_zero() {
        "as fast as the socket takes them".to_owned()
    } else {
        format!(
            "one every {between:?}, about {:.0} a second",
            1.0 / between.as_secs_f64()
        )
    };
    let carried = if conversation.stream {
        "yes, token by token"
    } else {
        "no, in one piece"
    };
    format!(
        "## This very stream\n\n\
         | what | value |\n\
         | --- | --- |\n\
         | model | `{}` |\n\
         | messages so far | {messages} |\n\
         | streamed | {carried} |\n\
         | first token | after {:?} |\n\
         | tokens | {speed} |\n\
         | alphabets | naïve, 日本語, 한국어, Ελληνικά, 🚀 |\n\n",
        escape(&conversation.model).replace('`', "'"),
        pace.first_token,
    )
}

const WHAT_TO_TRY: &str = "\
## What to try

1. **Cut the connection** in the middle of this sentence, then come back with `Last-Event-ID`: the stream goes on at the exact token.
2. **Watch it twice**: a second reader of the same stream id gets every token from the first on.
3. **Change the transport**: the same numbers come over Server-Sent Events and over a WebSocket.
4. **Steer me** from the prompt:
   - `[[tokens=50 tbt=100ms]]` for fifty slow tokens,
   - `[[fault=cut after=10]]` to see what an upstream's accident looks like.

";

/// Returns the examples for a terminal and a page.
fn code(examples: Examples) -> String {
    match examples {
        Examples::Gateway(address) => GATEWAY_CODE.replace("HOST", &reachable(address)),
        Examples::Simulator(address) => SIMULATOR_CODE.replace("HOST", &reachable(address)),
    }
}

/// Returns the host and port by which this machine reaches `address`.
fn reachable(address: SocketAddr) -> String {
    let ip = address.ip();
    let is_any = ip.is_unspecified() || ip == IpAddr::from([127, 0, 0, 1]);
    if is_any {
        format!("localhost:{}", address.port())
    } else {
        address.to_string()
    }
}

const GATEWAY_CODE: &str = "\
## In code

```sh
# Start a stream; each event carries an id like resp_….7
curl -N http://HOST/v1/streams -d '{\"input\": \"hello\"}'

# Come back to it where you left
curl -N http://HOST/v1/streams/$ID -H \"Last-Event-ID: $ID.7\"
```

```js
const source = new EventSource(\"http://HOST/v1/streams?input=hello\");
source.onmessage = (event) => console.log(event.lastEventId, event.data);
```

";

const SIMULATOR_CODE: &str = "\
## In code

```sh
curl -N http://HOST/v1/chat/completions \\
  -d '{\"model\": \"simulator\", \"stream\": true, \"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]}'
```

";

const CONFIGURE: &str = "\
To talk to a **real model**, start the gateway with `OPENAI_API_KEY` set (and `OPENAI_BASE_URL` for another server), or name your \
upstreams in `config/tokenwire.yaml`. Nothing else changes: your client reads the same stream.
";

const JOKE: &str = "\
Why did the token cross the network? To get to the other `data:`. 🥁

It would have got there sooner, but a proxy was *buffering*.
";

const POEM: &str = "\
*Small tokens, one by one,*
*go down the wire and are not lost;*
*who leaves and later comes again*
*finds every word at no new cost.*

静かな流れ ―
切れてもまた
続きから 🌊
";

/// Returns the user's text as a Markdown quotation. No character in it can end the quotation.
fn quote(text: &str) -> String {
    let lines: Vec<String> = shorten(text, QUOTE)
        .lines()
        .map(|line| format!("> {}", escape(line)))
        .collect();
    if lines.is_empty() {
        "> (nothing)".to_owned()
    } else {
        lines.join("\n")
    }
}

fn shorten(text: &str, limit: usize) -> String {
    let mut characters = text.chars();
    let mut short: String = characters.by_ref().take(limit).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}

/// Removes characters with a meaning in Markdown or HTML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '|' | '~' | '!' => {
                escaped.extend(['\\', character])
            }
            '\n' | '\r' | '\t' => escaped.push(' '),
            control if control.is_control() => {}
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occasion() -> Occasion {
        Occasion {
            unique: 1,
            now: 1,
            pace: Pace::READING,
            examples: Examples::Gateway(SocketAddr::from(([0, 0, 0, 0], 4321))),
        }
    }

    fn asked(question: &str) -> Conversation {
        Conversation {
            model: "simulator".into(),
            question: question.into(),
            messages: 1,
            choices: 1,
            stream: true,
            ..Conversation::default()
        }
    }

    #[test]
    fn default_answer_has_table_list_and_code() {
        let answer = prose(&asked("What is the weather on Mars?"), &occasion(), 0);
        for part in [
            "| --- | --- |",
            "1. **",
            "```sh",
            "OPENAI_API_KEY",
            "config/tokenwire.yaml",
            "Last-Event-ID",
            "> What is the weather on Mars?",
            "every 12ms",
        ] {
            assert!(answer.contains(part), "{part} is missing in {answer}");
        }
    }

    #[test]
    fn examples_name_the_port_of_the_server() {
        let code = |examples| {
            let occasion = Occasion {
                examples,
                ..occasion()
            };
            prose(&asked("some code"), &occasion, 0)
        };
        let gateway = code(Examples::Gateway(SocketAddr::from(([127, 0, 0, 1], 4321))));
        assert!(
            gateway.contains("http://localhost:4321/v1/streams"),
            "{gateway}"
        );
        let own = code(Examples::Simulator(SocketAddr::from(([10, 0, 0, 7], 81))));
        assert!(
            own.contains("http://10.0.0.7:81/v1/chat/completions"),
            "{own}"
        );
        assert!(!own.contains("/v1/streams"), "{own}");
    }

    #[test]
    fn answer_depends_on_the_question() {
        let subjects = [
            ("hello", Subject::Greeting),
            ("Show me some code", Subject::Code),
            ("a table please", Subject::Table),
            ("make a list", Subject::List),
            ("tell me a joke", Subject::Joke),
            ("write a poem about rust", Subject::Poem),
            ("why is the sky blue?", Subject::Other),
        ];
        let mut answers = Vec::new();
        for (question, subject) in subjects {
            assert_eq!(Subject::of(question), subject, "{question}");
            let answer = prose(&asked(question), &occasion(), 0).replace(&quote(question), "");
            assert!(!answers.contains(&answer), "{question}");
            answers.push(answer);
        }
    }

    #[test]
    fn quoted_text_stays_in_the_quotation() {
        let answer = prose(
            &asked("</code>\n# <script>alert(1)</script> `x` | y"),
            &occasion(),
            0,
        );
        assert!(
            answer.contains(
                "> &lt;/code&gt;\n> \\# &lt;script&gt;alert(1)&lt;/script&gt; \\`x\\` \\| y"
            ),
            "{answer}"
        );
    }

    #[test]
    fn answer_mentions_previous_turn_and_images() {
        let mut conversation = asked("and now?");
        conversation.earlier_question = Some("who are you?".into());
        conversation.images = vec!["image/png".into(), "image/jpeg".into()];
        let answer = prose(&conversation, &occasion(), 0);
        assert!(answer.contains("“who are you?”"));
        assert!(answer.contains("2 images: image/png, image/jpeg"));
    }
}
