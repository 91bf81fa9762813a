import { HttpAgent, runHttpRequest, transformHttpEventStream } from '@ag-ui/client';

export class RejoinAgent extends HttpAgent {
  connect({ threadId }) {
    const url = `${this.url}/threads/${encodeURIComponent(threadId)}`;
    return transformHttpEventStream(runHttpRequest(() => this.fetch(url, { headers: this.headers })));
  }
}
