import { relay } from '{{broker}}/assets/valetkey.js';

relay();
