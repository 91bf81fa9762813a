// Opens an EventSource and writes what happens to it, a line each: the data of each event, every end of a connection,
// and `closed` once it will not connect again.
import { EventSource } from 'eventsource';

const source = new EventSource(process.argv[2]);
source.onmessage = ({ data }) => console.log(data);
source.onerror = ({ code }) => {
  console.log(source.readyState === EventSource.CLOSED ? `closed ${code}` : 'reconnects');
};
