import { StrictMode, useMemo, useState } from "react";
import { createRoot } from "react-dom/client";
import { useTokenStream } from "./use-token-stream.js";

function Chat({ gateway }) {
  const options = useMemo(() => ({ baseUrl: gateway }), [gateway]);
  const { text, state, error, reconnects, ask, stop, cut } = useTokenStream(options);
  const [question, setQuestion] = useState("Tell me something");
  const submit = (event) => {
    event.preventDefault();
    ask(question);
  };
  return (
    <>
      <form onSubmit={submit}>
        <input name="question" aria-label="Question" value={question} onChange={(event) => setQuestion(event.target.value)} size="40" />
        <button>Ask</button>
        <button type="button" onClick={stop}>Stop</button>
        <button type="button" id="cut" onClick={cut}>Cut the connection</button>
      </form>
      <p role="status">{error ?? state}{reconnects > 0 && `, reconnected ${reconnects}×`}</p>
      <p id="answer">{text}</p>
    </>
  );
}

const gateway = new URLSearchParams(location.search).get("gateway") ?? "http://localhost:3000";
createRoot(document.querySelector("#root")).render(<StrictMode><Chat gateway={gateway} /></StrictMode>);
